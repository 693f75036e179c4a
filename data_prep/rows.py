"""The record types of data preparation: what a source yields, what is asked about it, what was dropped, a row."""

from dataclasses import dataclass
from typing import Any

from finetune.artifacts.hashing import sha256_text

SIDES = ("train", "val", "test")

Target = str | list[str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document stands: its file, the file's sha256, its range of characters in the decoded file."""

    path: str
    """Relative to the data root or package, so that the same data gives the same split anywhere."""
    sha256: str
    start: int
    end: int

    def lot(self, seed: int, purpose: str) -> float:
        """A number in [0, 1) drawn by seed, another for each purpose: the same under every HMAC key."""
        return int(sha256_text(f"{seed}|{purpose}|{self.path}|{self.start}")[:13], 16) / 16**13


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about a text, empty where the prompt says it all, and the answer to learn."""

    question: str
    target: Target


@dataclass(frozen=True, slots=True)
class Span:
    """A passage that someone marked: its label, its text as quoted, and where it starts if that is known."""

    label: str
    quote: str
    start: int | None = None
    """Position in the document's raw text."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text as its source holds it, with the answers (form=whole) or the marked passages (the other forms)."""

    origin: Origin
    text: str
    asks: tuple[Ask, ...] = ()
    spans: tuple[Span, ...] = ()
    groups: tuple[str, ...] = ()
    """Source groups: a contract, a patient, a customer."""
    time: str | None = None
    """ISO 8601, so that strings sort as times do."""
    language: str | None = None
    pages: tuple[int, ...] = ()
    """Where each page starts in the text; empty where the format has none."""
    extractor: str = ""
    """What read the file, with its version; empty for tables."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A document that became no row, and why."""

    origin: Origin
    reason: str
    lost: bool = True
    """False where a setting asked for it (a source's filters, max_rows): no part of the drop budget."""
    spans: int = 0
    """Marked passages that are lost with it."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A normalised text that rows ask about: a whole document, a window of it, or a marked passage."""

    text: str
    start: int
    end: int
    """Range in the document's raw text."""
    asks: tuple[Ask, ...]
    window: int | None = None
    """Number of the window in its document."""


@dataclass(frozen=True)
class Row:
    """One line of train, val or test: the row contract of the design."""

    id: str
    group: str
    messages: list[dict[str, str]]
    target: Target
    sources: list[dict[str, Any]]
    document: str
    window: int | None = None
    time: str | None = None
    language: str | None = None
    question: str | None = None
    """What is asked about the text, where the prompt does not say it all: a question, or the label to quote."""

    def as_json(self) -> dict[str, Any]:
        """The row as the object that is written, without what it does not have."""
        return {key: value for key, value in vars(self).items() if value is not None}
