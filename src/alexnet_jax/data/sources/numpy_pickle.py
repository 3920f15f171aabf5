"""Pickles of dicts, lists and NumPy's arrays of bytes, without running what they pickle.

A pickle is a program for Python's pickle machine, which can call any function there is. The reader here admits the few
that such arrays need, as functions of its own, and refuses all others by name.
"""

import io
import pickle
from math import prod
from typing import Any

import numpy as np

from alexnet_jax.config import BadInput


def loads(data: bytes, called: str) -> Any:
    """What is pickled, Python 2's strings as bytes; an array is an object whose `numbers` are uint8 of its shape.

    `called` is what messages call the file. Raises BadInput where it is damaged, or wants to call something else.
    """
    try:
        return _Unpickler(data, called).load()
    except BadInput:
        raise
    except Exception as error:  # damaged bytes may fail anywhere in the pickle machine
        raise BadInput(f"{called} is damaged or no pickle of NumPy's ({type(error).__name__}); get it again") from error


def _admitted() -> dict[str, Any]:
    """What a pickle may call. Made anew for every file: a pickle can set attributes of a function and of a class."""

    class DType:
        def __init__(self, code: str | bytes, *_: object) -> None:
            if code not in ("u1", b"u1"):
                raise ValueError(f"an array of {code!r}, not of bytes")

        def __setstate__(self, state: object) -> None:
            """The byte order, which bytes have not."""

    class Array:
        def __setstate__(self, state: tuple[int, tuple[int, ...], DType, bool, bytes]) -> None:
            _, shape, dtype, by_column, data = state
            if not isinstance(dtype, DType) or prod(shape) != len(data):
                raise ValueError("an array that has not the size that it announces")
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
                f"{self.called} wants to call {wanted!r}, which an array of bytes does not need; nothing was executed; "
                f"get the file again"
            )
        return self.admitted[wanted]
