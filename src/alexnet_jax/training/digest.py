"""Digests of arrays, so that damage on the disk does not pass for weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def digests(tree: Any) -> dict[str, str]:
    """{"conv1/kernel": 16 hexadecimal digits, ..}: the same on every layout, and on any number of processes.

    Two sums modulo 2^32 over all words of an array, each word times an odd number that depends on its position. So a
    change in one word always changes both.
    """
    named = {
        "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path): array
        for path, array in jax.tree.leaves_with_path(tree)
    }
    found = jax.device_get(_sums({name: _words(array) for name, array in named.items()}))
    return {name: "".join(f"{int(part):08x}" for part in sums) for name, sums in found.items()}


def _words(array: Any) -> Any:
    """An array on the host as whole numbers of at most 32 bits. JAX would round a float64 to a float32."""
    if isinstance(array, Array):
        return array
    array = np.atleast_1d(np.ascontiguousarray(array))
    return array.view(f"u{min(array.itemsize, 4)}")


@jax.jit
def _sums(arrays: dict[str, Any]) -> dict[str, tuple[Array, Array]]:
    return {name: _sums_of(array) for name, array in arrays.items()}


def _sums_of(array: Array) -> tuple[Array, Array]:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, f"u{min(array.dtype.itemsize, 4)}").astype(jnp.uint32)
    # Each word's position from iotas along the axes: a reshape would move a sharded array between devices.
    position = jnp.zeros((), jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        position = position + lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride)
    mixed = (position ^ (position >> 15)) * np.uint32(0x85EBCA6B)
    odds = position * np.uint32(0x9E3779B2) + np.uint32(1), (mixed ^ (mixed >> 13)) | np.uint32(1)
    first, second = (jnp.sum(words * odd, dtype=jnp.uint32) for odd in odds)
    return first, second
