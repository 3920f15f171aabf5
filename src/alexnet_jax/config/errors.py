"""The error for input that cannot work."""


class BadInput(ValueError):
    """Something the user gave cannot work. The message is one sentence: what, where, and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote file names, which must not control the terminal


def printable(text: str) -> str:
    """The text with tabs, line breaks and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
