"""The rows that items become: their opaque ids, their order, the empty windows that training leaves out."""

import hmac
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.corpus import Corpus
from data_prep.items import Item
from data_prep.rows import SIDES, Ask, Origin, Row
from data_prep.split import TRAIN, Division
from finetune.artifacts.hashing import canonical, sha256_text
from finetune.chat import messages_of
from finetune.config.data import DataConfig, RowForm

DIGITS = 16


class Ids:
    """Ids that reveal nothing without the key, and are the same as long as the key is."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def row(self, origin: Origin) -> str:
        """Id of the row made from a passage."""
        return self._id("row", origin)

    def document(self, origin: Origin) -> str:
        """Id of a source document."""
        return self._id("document", origin)

    def group(self, first: Origin) -> str:
        """Id of a component, named by its first passage."""
        return self._id("group", first)

    def _id(self, kind: str, origin: Origin) -> str:
        text = f"{kind}|{origin.path}|{origin.start}|{origin.end}"
        return hmac.digest(self.key, text.encode(), "sha256").hex()[:DIGITS]


@dataclass
class SideCount:
    """What stands on one side of the split."""

    rows: int = 0
    characters: int = 0
    target_characters: int = 0
    empty_left_out: int = 0
    groups: set[int] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    hashes: list[str] = field(default_factory=list)
    """Of what is asked and answered, independent of ids."""

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        self.characters += sum(len(turn["content"]) for turn in row.messages)
        self.target_characters += len(row.target if isinstance(row.target, str) else json.dumps(row.target))

    def sha256(self) -> str:
        """One hash of the rows' prompts and answers, whatever their order and ids."""
        return sha256_text("".join(sorted(self.hashes)))


@dataclass(frozen=True, slots=True)
class Example:
    """An item that becomes rows: its place in the corpus, its component's first item, its side."""

    position: int
    item: Item
    component: int
    first: Item
    side: str


def examples(corpus: Corpus, kept: Sequence[int], division: Division) -> list[Example]:
    """The kept items with where they stand, in source order."""
    items = [corpus.items[index] for index in kept]
    return [
        Example(kept[number], item, component, items[component], side)
        for number, (item, component, side) in enumerate(
            zip(items, division.component_of.tolist(), division.sides, strict=True)
        )
    ]


class RowMaker:
    """Makes the rows of each side in their order and counts them."""

    def __init__(self, corpus: Corpus, data: DataConfig, ids: Ids) -> None:
        self.corpus, self.data, self.ids = corpus, data, ids
        self.counts = {side: SideCount() for side in SIDES}

    def rows(self, members: Sequence[Example], side: str) -> Iterator[dict[str, Any]]:
        """The rows of one side, shuffled by seed: sources are often sorted by label."""
        mine = [member for member in members if member.side == side]
        mine.sort(key=lambda member: member.item.origin.lot(self.data.seed, "order"))
        texts = self.corpus.texts([member.position for member in mine])
        count = self.counts[side]
        for member, (text, asks) in zip(mine, texts.entries(), strict=True):
            count.groups.add(member.component)
            count.labels.update(member.item.labels)
            for number, ask in enumerate(asks):
                if side == TRAIN and self._left_out(member.item, ask):
                    count.empty_left_out += 1
                    continue
                row = self._row(member, text, ask, number if len(asks) > 1 else None)
                count.add(row)
                if side == "test":
                    count.hashes.append(
                        sha256_text(canonical({"messages": row.messages, "target": row.target}))
                    )
                yield row.as_json()

    def _left_out(self, item: Item, ask: Ask) -> bool:
        if self.data.form is not RowForm.extract or ask.target:
            return False
        lot = item.origin.lot(self.data.seed, f"empty|{ask.question}")
        return lot >= self.data.windows.keep_empty_fraction

    def _row(self, member: Example, text: str, ask: Ask, number: int | None) -> Row:
        item, origin = member.item, member.item.origin
        name = self.ids.row(origin)
        return Row(
            id=name if number is None else f"{name}-{number}",
            group=self.ids.group(member.first.origin),
            messages=messages_of(text, ask.question, self.data),
            target=ask.target,
            sources=[{"sha256": origin.sha256, "start": origin.start, "end": origin.end}],
            document=self.ids.document(item.whole),
            window=item.window,
            time=item.time,
            language=item.language,
            question=ask.question or None,
        )
