"""The record types of data preparation: where a document stands, the document, a drop, a row."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.artifacts.hashing import sha256_text
from finetune.config.schema import DataConfig

SIDES = ("train", "val", "test")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Document:
    """One text and the answer to learn for it."""

    origin: Origin
    text: str
    target: str
    groups: tuple[str, ...] = ()
    """Source groups (a contract, a patient): its own, and those of its exact duplicates."""


@dataclass(frozen=True)
class Drop:
    """A document that became no row, and why."""

    origin: Origin
    reason: str
    lost: bool = True
    """False where a setting asked for it (a source's filters, max_rows): no part of the drop budget."""


@dataclass(frozen=True)
class Row:
    """One line of train, val or test: the row contract of the design."""

    id: str
    group: str
    messages: list[dict[str, str]]
    target: str
    sources: list[dict[str, Any]]
    document: str

    def as_json(self) -> dict[str, Any]:
        """The row as the object that is written."""
        return asdict(self)


def messages_of(text: str, data: DataConfig) -> list[dict[str, str]]:
    """The prompt of one text: the system turn where there is one, and the user's turn."""
    # str.replace, not str.format: a text or a prompt may hold braces of its own
    user = {"role": "user", "content": data.prompt.replace("{text}", text)}
    return [{"role": "system", "content": data.system}, user] if data.system else [user]


def kept_and_dropped(items: Iterable[Document | Drop]) -> tuple[list[Document], list[Drop]]:
    """The documents and the drops of a mixed stream, each in its order."""
    documents: list[Document] = []
    drops: list[Drop] = []
    for item in items:
        if isinstance(item, Drop):
            drops.append(item)
        else:
            documents.append(item)
    return documents, drops


def by_side(
    documents: Sequence[Document], rows: Sequence[Row], sides: Sequence[str], seed: int
) -> dict[str, list[Row]]:
    """The rows of train, val and test, each shuffled by seed: sources are often sorted by label."""
    order = sorted(range(len(rows)), key=lambda position: documents[position].origin.lot(seed, "order"))
    return {side: [rows[position] for position in order if sides[position] == side] for side in SIDES}
