"""The error for input that cannot work."""

import re
from pathlib import Path


class BadInput(ValueError):
    """Something the user gave cannot work. The message is one sentence: what, where, and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote file names, which must not control the terminal


def printable(text: str) -> str:
    """The text with tabs, line breaks and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_local(path: str | Path) -> None:
    """Raises BadInput if the path is the address of a bucket. A Path has already lost one of its two slashes."""
    address = re.match(r"(\w{2,}):/+(.*)", str(path))
    if address:
        raise BadInput(
            f"{address[1]}://{address[2]} is not in the file system; give a local directory, and copy it from or to "
            f"the bucket, or mount the bucket"
        )
