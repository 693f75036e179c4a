"""What memory holds of every passage that was read, and what is decided about it."""

import hashlib
from dataclasses import dataclass

from data_prep.rows import Origin
from finetune.config.data import RowForm

LONGEST_LABEL = 80
"""A longer target is free text, which memory holds by its digest."""


@dataclass(slots=True)
class Item:
    """A passage without its text, or a document that never became one: what is decided about it is set here."""

    whole: Origin
    """The document's."""
    origin: Origin
    """The passage's; the very same where it is the whole document."""
    window: int | None = None
    page: int | None = None
    groups: tuple[str, ...] = ()
    time: str | None = None
    language: str | None = None
    labels: tuple[str, ...] = ()
    """What the answers say, long ones by digest: the strata of the split."""
    text: bytes = b""
    """Equal for equal texts."""
    key: bytes = b""
    """Equal for equal texts that are asked the same."""
    answers: bytes = b""
    marked: int = 0
    """Marked passages of the whole document that rows can show; stands at its first item."""
    extractor: str = ""
    place: int = 0
    size: int = 0
    """Bytes in the file of texts, from `place` on."""
    reason: str = ""
    """Why it became no row; empty while it may."""
    lost: bool = True
    """False where a setting asked for the drop."""

    def drop(self, reason: str, lost: bool = True) -> None:
        """Set why it becomes no row."""
        self.reason, self.lost = reason, lost


def digest(*parts: str) -> bytes:
    """16 bytes that stand for the texts."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).digest()


def held(label: str) -> str:
    """A label as `Item.labels` holds it."""
    return label if len(label) <= LONGEST_LABEL else digest(label).hex()


def unit_of(item: Item, form: RowForm) -> Origin:
    """What is dropped as one: a document with windows missing would be measured wrongly."""
    return item.whole if form is RowForm.extract else item.origin


@dataclass(frozen=True)
class Note:
    """Something about a passage that a person should see: a lost span, a text near a held-out one."""

    origin: Origin
    label: str
    reason: str
