"""The machine itself: how fast it multiplies matrices and copies memory."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

COPIED = 1 << 28


def role(precision: str) -> Callable[..., dict[str, Any]]:
    """Each turn returns {"flops", "bytes", "device"}, both per second; bytes are those read plus those written."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    dot_precision = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}[precision]
    multiply = jax.jit(lambda a: jnp.dot(a, a, precision=dot_precision))
    device = jax.devices()[0]

    def rate(work: Callable[[], object], amount: float, seconds: float = 0.0) -> float:
        """`amount` per second, from the median time of all runs after the first, which warms up."""
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 4 or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return amount / median(times[1:])

    side = 2048 if device.platform == "cpu" else 8192
    host = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    there = jnp.asarray(host, dtype)
    products: list[Callable[[], object]] = [lambda: multiply(there).block_until_ready()]
    if device.platform == "cpu" and precision != "bfloat16":
        products.append(partial(np.matmul, host, host))
    fastest = max(products, key=lambda product: rate(product, 1.0))
    copy: Callable[[], object]
    if device.platform == "cpu":
        cores = os.cpu_count() or 1
        parts = [np.ones((2, COPIED // cores), np.uint8) for _ in range(cores)]
        threads = ThreadPoolExecutor(cores)
        copy = lambda: list(threads.map(lambda part: np.copyto(part[0], part[1]), parts))  # noqa: E731
    else:
        add, block = jax.jit(lambda x: x + 1), jnp.ones(COPIED, jnp.uint8)
        copy = partial(lambda x: add(x).block_until_ready(), block)

    def turn(check: bool = False, seconds: float = 0.0) -> dict[str, Any]:
        if check:
            return {"place": device.platform}
        flops, bytes_ = rate(fastest, 2.0 * side**3, seconds / 2), rate(copy, 2.0 * COPIED, seconds / 4)
        return {"flops": flops, "bytes": bytes_, "device": device.device_kind}

    return turn
