"""Where the members of a tar lie, by its headers alone, and what a few small ones hold. Nothing is written."""

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

# What tarfile raises where a tar is damaged; the last is for a thousand headers of long names in a row.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError)


class Member(NamedTuple):
    """A regular file in a tar; its bytes are file[start : start + length]."""

    name: str
    """the last part of its path"""
    start: int
    length: int


def members(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """The regular files in a tar, or in the tar that is a member of it, in their order; links and folders are not.

    A hard link to an earlier file of the tar is that file under another name. Raises BadInput where the tar is
    compressed, damaged or cut off: what ends without a block of zeros is cut off.
    """
    called = f"{inside.name} in {path}" if inside else str(path)
    with path.open("rb", buffering=0) as file:
        at, end = (inside.start, inside.start + inside.length) if inside else (0, file.seek(0, os.SEEK_END))
        if os.pread(file.fileno(), 2, at) == GZIP:
            raise BadInput(f"{called} is gzipped, and pictures cannot be read out of it in place; gunzip it first")
        files: dict[str, tuple[int, int]] = {}  # by their whole names: start and length
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
                raise BadInput(f"{called} is no tar or damaged at byte {at}: {error}") from None
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
            f"{called} is cut off at byte {end}, in the middle of a file or before the tar's end; get it again"
        )


def extract(path: Path, names: Collection[str], most: int, folder: str | None = None) -> dict[str, bytes]:
    """What the files of these names in a tar hold, by the last part of their paths: in any folder, or in `folder`.

    The tar may be compressed. Raises BadInput where it is damaged, or such a file has more than `most` bytes.
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
        raise BadInput(f"{path} cannot be read: {error}; get it again") from None
    return held


def check_size(name: str, path: Path, size: int, most: int) -> None:
    if size > most:
        raise BadInput(f"{name} in {path} has {size} bytes, and such a file has at most {most}; get it again")
