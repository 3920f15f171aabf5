"""Reads pickles of dicts, lists and NumPy's byte arrays without executing what they pickle.

A pickle is a program for Python's pickle machine and can call any function. This reader allows the few that such arrays
need, as functions of its own, and rejects all others by name.
"""

import io
import pickle
from math import prod
from typing import Any

import numpy as np

from alexnet_jax.config import BadInput


def loads(data: bytes, called: str) -> Any:
    """The pickled object, with Python 2's strings as bytes. An array is an object with uint8 `numbers` of its shape.

    `called`: the file's name in messages. Raises BadInput if it is damaged or tries to call something else.
    """
    try:
        return _Unpickler(data, called).load()
    except BadInput:
        raise
    except Exception as error:  # damaged bytes may fail anywhere in the pickle machine
        raise BadInput(
            f"{called} is damaged or not a pickle of NumPy arrays ({type(error).__name__}); download it again"
        ) from error


def _admitted() -> dict[str, Any]:
    """The functions a pickle may call. Made anew for every file, as a pickle can set attributes of functions."""

    class DType:
        def __init__(self, code: str | bytes, *_: object) -> None:
            if code not in ("u1", b"u1"):
                raise ValueError(f"an array of {code!r}, not of bytes")

        def __setstate__(self, state: object) -> None:
            """The byte order, which does not matter for bytes."""

    class Array:
        def __setstate__(self, state: tuple[int, tuple[int, ...], DType, bool, bytes]) -> None:
            _, shape, dtype, by_column, data = state
            if not isinstance(dtype, DType) or prod(shape) != len(data):
                raise ValueError("an array whose size differs from the announced one")
            self.numbers = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_column else "C")

    def reconstruct(*_: object) -> Array:
        return Array()

    def encode(text: str, encoding: str) -> bytes:
        # How Python 3 writes bytes so that Python 2 reads them.
        if encoding != "latin1":
            raise ValueError(f"bytes as {encoding!r}, which pickle does not write")
        return text.encode("latin1")

    return {
        "_codecs.encode": encode,
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy._core.multiarray._reconstruct": reconstruct,  # since NumPy 2
        "numpy.dtype": DType,
        "numpy.ndarray": Array,
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, called: str) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.called, self.admitted = called, _admitted()

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in self.admitted:
            raise BadInput(
                f"{self.called} tries to call {wanted!r}, which an array of bytes does not need; nothing was executed; "
                f"get the file again"
            )
        return self.admitted[wanted]
