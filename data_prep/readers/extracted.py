"""What a text reader gives: the text of a file, or why there is none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of one file."""

    text: str
    pages: tuple[int, ...]
    """Where each page starts in the text; empty where the format has no pages."""
    extractor: str
    """The library and its version, or the encoding of a plain text."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that could not be read, and why: plain words, numbers from the settings alone, nothing of its content."""

    reason: str


class UnreadableError(Exception):
    """Raised by a reader that gives up on a file; it becomes a Broken or a DataError."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def require_short(characters: int, most: int) -> None:
    """Raise UnreadableError above so many characters of text."""
    if characters > most:
        raise UnreadableError(f"more than {most} characters")


def require_text(text: str) -> str:
    """The text, with half surrogates replaced. Raises UnreadableError where it is blank."""
    if not text.strip():
        raise UnreadableError("no text in it")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
