"""Where the members of a tar lie, by its headers alone. Nothing is extracted."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources.source import GZIP, clean, last_part


class Member(NamedTuple):
    """A regular file in a tar; its bytes are file[start : start + length]."""

    name: str
    """the last part of its path"""
    start: int
    length: int


def members(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """The regular files in a tar, or in the tar that is a member of it, in their order; links and folders are not.

    Raises BadInput where the tar is compressed, damaged or cut off: what ends without a block of zeros is cut off.
    """
    called = f"{clean(inside.name)} in {path}" if inside else str(path)
    with path.open("rb", buffering=0) as file:
        at, end = (inside.start, inside.start + inside.length) if inside else (0, file.seek(0, os.SEEK_END))
        if os.pread(file.fileno(), 2, at) == GZIP:
            raise BadInput(f"{called} is gzipped, and pictures cannot be read out of it in place; gunzip it first")
        # TarFile.next() takes a damaged header for the end of the tar. This one only keeps the state that
        # TarInfo.fromtarfile needs for the headers of long names.
        tar = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.BLOCKSIZE)))
        tar.fileobj = file
        while at + tarfile.BLOCKSIZE <= end:
            file.seek(at)
            try:
                member = tarfile.TarInfo.fromtarfile(tar)
            except (tarfile.HeaderError, ValueError, OverflowError, MemoryError) as error:
                if not any(os.pread(file.fileno(), tarfile.BLOCKSIZE, at)):
                    return
                raise BadInput(f"{called} is no tar or damaged at byte {at}: {error}") from None
            if not at < tar.offset <= end:
                break
            if member.issparse():
                raise BadInput(f"{called} stores {member.name!r} with holes; make it again without --sparse")
            if member.isreg():
                yield Member(last_part(member.name), member.offset_data, member.size)
            at = tar.offset
        raise BadInput(
            f"{called} is cut off at byte {end}, in the middle of a file or before the tar's end; get it again"
        )
