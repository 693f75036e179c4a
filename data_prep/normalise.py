"""One form for every text: Unicode NFC, plain newlines, no control characters, no runs of white space."""

import re
import unicodedata
from dataclasses import replace

from data_prep.rows import Document, Drop

NEWLINES = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b]")
SPACES = re.compile(r"[^\S\n]+")
LINE_EDGES = re.compile(r" ?\n ?")
BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """The text in its one form. Lines and paragraphs stay: contracts and notices are built of them."""
    text = NEWLINES.sub("\n", unicodedata.normalize("NFC", text))
    text = SPACES.sub(" ", CONTROL.sub(" ", text))
    return BLANK_LINES.sub("\n\n", LINE_EDGES.sub("\n", text)).strip()


def normalised(document: Document) -> Document | Drop:
    """The document with its text normalised, or a drop where nothing is left of it."""
    text = normalise(document.text)
    if not text:
        return Drop(document.origin, "no text left after normalising")
    return replace(document, text=text)


def folded(text: str) -> str:
    """The form in which texts count as equal: case and all white space aside."""
    return " ".join(text.casefold().split())
