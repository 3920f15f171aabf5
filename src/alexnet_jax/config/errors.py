"""What a user is told when something they gave cannot work."""


class BadInput(ValueError):
    """Something the user gave cannot work; the message is one sentence that says what, where and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())  # names of files are quoted in it, and must not speak to the terminal


def printable(text: str) -> str:
    """The text with tabs, line breaks and whatever else does not print as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
