"""Finds the members of a tar from its headers, and reads a few small ones. Nothing is written."""

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources.source import GZIP, last_part

# What tarfile raises for a damaged tar; the last one for a thousand long-name headers in a row.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError)


class Member(NamedTuple):
    """A regular file in a tar; its bytes are file[start : start + length]."""

    name: str
    """the last part of its path"""
    start: int
    length: int


def members(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """The regular files in a tar, or in a tar inside it, in order, without links and folders.

    A hard link to an earlier file of the tar is that file under another name. Raises BadInput if the tar is compressed,
    damaged or truncated; a tar is truncated if it does not end with a block of zeros.
    """
    called = f"{inside.name} in {path}" if inside else str(path)
    with path.open("rb", buffering=0) as file:
        at, end = (inside.start, inside.start + inside.length) if inside else (0, file.seek(0, os.SEEK_END))
        if os.pread(file.fileno(), 2, at) == GZIP:
            raise BadInput(f"{called} is gzipped, so its images cannot be read in place; gunzip it first")
        files: dict[str, tuple[int, int]] = {}  # start and length by full name
        # TarFile.next() takes a damaged header for the end of the tar. This one only keeps the state that
        # TarInfo.fromtarfile needs for the headers of long names.
        tar = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.BLOCKSIZE)), encoding="utf-8")
        tar.fileobj = file
        while at + tarfile.BLOCKSIZE <= end:
            file.seek(at)
            try:
                member = tarfile.TarInfo.fromtarfile(tar)
            except _DAMAGE as error:
                if not any(os.pread(file.fileno(), tarfile.BLOCKSIZE, at)):
                    return
                raise BadInput(f"{called} is not a tar, or damaged at byte {at}: {error}") from None
            if not at < tar.offset <= end:
                break
            if member.issparse():
                raise BadInput(f"{called} stores {member.name!r} with holes; make it again without --sparse")
            # A hard link has no bytes of its own.
            place = (member.offset_data, member.size) if member.isreg() else None
            if member.islnk():
                place = files.get(member.linkname)
            if place:
                files[member.name] = place
                yield Member(last_part(member.name), *place)
            at = tar.offset
        raise BadInput(
            f"{called} is truncated at byte {end}, in the middle of a file or before the tar's end; download it again"
        )


def extract(path: Path, names: Collection[str], most: int, folder: str | None = None) -> dict[str, bytes]:
    """The contents of the files with these names in a tar, in any folder or in `folder`.

    The tar may be compressed. Raises BadInput if it is damaged, or if such a file has more than `most` bytes.
    """
    held = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = last_part(member.name)
                if folder not in (None, PurePosixPath(member.name).parent.name):
                    continue
                if member.isreg() and name in names and (file := tar.extractfile(member)):
                    check_size(name, path, member.size, most)
                    held[name] = file.read()
    except BadInput:
        raise
    except (*_DAMAGE, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadInput(f"{path} cannot be read: {error}; download it again") from None
    return held


def check_size(name: str, path: Path, size: int, most: int) -> None:
    if size > most:
        raise BadInput(f"{name} in {path} has {size} bytes, and such a file has at most {most}; download it again")
