"""Everything a source holds, read and normalised by all cores: items in memory, texts and shingles on disk."""

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.contamination import References
from data_prep.items import Item, Note, digest, held, unit_of
from data_prep.normalise import folded
from data_prep.parallel import mapped
from data_prep.passages import Cutting, passages
from data_prep.rows import Ask, Document, Drop, Origin, Passage, Target
from data_prep.shingles import shingles
from data_prep.sources import Source
from data_prep.spill import Numbers, Spill
from finetune.config.data import DataConfig, RowForm
from finetune.console import counted

BATCH_CHARS = 2_000_000
"""Documents are handed to a worker by about so many characters at a time."""
BATCH_DOCUMENTS = 1000
REPEATS = "repeats a held-out text"


@dataclass
class Part:
    """What a worker makes of a batch of documents; `place` counts from the batch's first byte."""

    items: list[Item] = field(default_factory=list)
    texts: bytearray = field(default_factory=bytearray)
    numbers: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    spans: Counter[str] = field(default_factory=Counter)
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class Texts(Sequence[Any]):
    """Texts and what is asked about them, read from disk when looked at; slices are cheap to send to a worker."""

    path: Path
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """One text, or for a slice the same view of fewer."""
        if isinstance(index, slice):
            return Texts(self.path, self.places[index], self.sizes[index])
        return next(iter(self[index : index + 1]))

    def __iter__(self) -> Iterator[str]:
        return (text for text, _ in self.entries())

    def entries(self) -> Iterator[tuple[str, list[Ask]]]:
        """Every text with its questions."""
        with self.path.open("rb") as stream:
            for place, size in zip(self.places.tolist(), self.sizes.tolist(), strict=True):
                text, asks = json.loads(os.pread(stream.fileno(), size, place))
                yield text, [Ask(question, target) for question, target in asks]


@dataclass
class Corpus:
    """What was read, in source order."""

    path: Path
    shingles: Spill
    items: list[Item] = field(default_factory=list)
    shingle_counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    spans: Counter[str] = field(default_factory=Counter)
    notes: list[Note] = field(default_factory=list)

    def kept(self) -> list[int]:
        """Positions of the items that may still become rows."""
        return [index for index, item in enumerate(self.items) if not item.reason]

    def texts(self, positions: Sequence[int]) -> Texts:
        """The texts of some items."""
        places = np.array([self.items[index].place for index in positions], dtype=np.int64)
        sizes = np.array([self.items[index].size for index in positions], dtype=np.int64)
        return Texts(self.path, places, sizes)


def read_corpus(
    source: Source, data: DataConfig, references: References, folder: Path, workers: int
) -> Corpus:
    """Read, normalise and cut everything. The same for any number of workers."""
    corpus = Corpus(folder / "texts.jsonl", Spill(folder / "shingles"))
    counts: list[NDArray[np.int64]] = []
    labels: dict[tuple[str, ...], tuple[str, ...]] = {}  # one copy of each, not one a row
    work = partial(_worked, data, source.questions, references)
    place = 0
    with corpus.path.open("wb") as stream:
        for part in mapped(work, counted(_batches(source.read()), "read"), workers):
            rows = np.arange(len(corpus.items), len(corpus.items) + len(part.items), dtype=np.uint32)
            corpus.shingles.add(part.numbers, np.repeat(rows, part.sizes))
            counts.append(part.sizes)
            for item in part.items:
                item.place += place
                item.labels = labels.setdefault(item.labels, item.labels)
            place += stream.write(part.texts)
            corpus.items += part.items
            corpus.spans.update(part.spans)  # keeps the zeros
            corpus.notes += part.notes
    corpus.shingle_counts = np.concatenate([*counts, np.empty(0, dtype=np.int64)])
    return corpus


def _batches(found: Iterable[Document | Drop]) -> Iterator[list[Document | Drop]]:
    batch: list[Document | Drop] = []
    characters = 0
    for item in found:
        batch.append(item)
        characters += len(item.text) if isinstance(item, Document) else 0
        if characters >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _worked(
    data: DataConfig, asked: Sequence[str], references: References, batch: Sequence[Document | Drop]
) -> Part:
    part = Part()
    texts: list[str] = []
    rows: list[int] = []
    for found in batch:
        if isinstance(found, Drop):
            dropped = Item(
                found.origin, found.origin, reason=found.reason, lost=found.lost, marked=found.spans
            )
            part.items.append(dropped)
            if found.spans:
                part.spans.update(annotated=found.spans, unread=found.spans)
            continue
        cut = passages(found, data, asked)
        part.spans.update(cut.counts)
        part.notes += [Note(found.origin, lost.label, lost.reason) for lost in cut.lost]
        if not cut.passages:
            part.items.append(Item(found.origin, found.origin, reason=cut.reason))
        for number, (item, passage) in enumerate(
            zip(_items(found, cut, data.form), cut.passages, strict=True)
        ):
            item.marked = 0 if number else cut.counts["recoverable"]
            rows.append(len(part.items))
            texts.append(passage.text)
            item.place = len(part.texts)
            part.texts += _line(passage)
            item.size = len(part.texts) - item.place
            part.items.append(item)
    _refuse_repeats(part, [part.items[row] for row in rows], texts, references, data)
    part.sizes = np.zeros(len(part.items), dtype=np.int64)
    if texts:
        part.numbers, ends = shingles(texts, data.near_duplicates.shingle_words)
        part.sizes[rows] = np.diff(ends, prepend=0)
    return part


def _line(passage: Passage) -> bytes:
    asks = [[ask.question, ask.target] for ask in passage.asks]
    return (json.dumps([passage.text, asks], ensure_ascii=False) + "\n").encode()


def _items(document: Document, cut: Cutting, form: RowForm) -> Iterator[Item]:
    texts = keys = [digest(folded(passage.text)) for passage in cut.passages]
    if form is RowForm.extract:  # windows are copies where their documents are
        whole = digest(*(key.hex() for key in keys))
        keys = [digest(whole.hex(), str(number)) for number in range(len(keys))]
    for text, key, passage in zip(texts, keys, cut.passages, strict=True):
        origin = document.origin
        if form is not RowForm.whole:
            origin = Origin(origin.path, origin.sha256, passage.start, passage.end)
        questions = [ask.question for ask in passage.asks] if form is RowForm.whole else []
        yield Item(
            whole=document.origin,
            origin=origin,
            window=passage.window,
            page=_page(document, passage) if form is not RowForm.whole else None,
            groups=document.groups,
            time=document.time,
            language=document.language,
            labels=_labels(passage, form),
            text=text,
            key=digest(key.hex(), *questions) if any(questions) else key,
            answers=digest(*(json.dumps(_unordered(ask.target)) for ask in passage.asks)),
            extractor=document.extractor,
        )


def _page(document: Document, passage: Passage) -> int | None:
    return bisect_right(document.pages, passage.start - document.origin.start) if document.pages else None


def _labels(passage: Passage, form: RowForm) -> tuple[str, ...]:
    if form is RowForm.extract:
        return tuple(ask.question for ask in passage.asks if ask.target)
    found: list[str] = []
    for ask in passage.asks:
        found += [ask.target] if isinstance(ask.target, str) else ask.target
    return tuple(map(held, dict.fromkeys(found)))


def _unordered(target: Target) -> Target:
    return target if isinstance(target, str) else sorted(target)


def _refuse_repeats(
    part: Part, items: Sequence[Item], texts: Sequence[str], references: References, data: DataConfig
) -> None:
    """Drop what repeats a held-out text, and note what comes near one."""
    hit_documents = set()
    for item, hit in zip(items, references.covered(texts), strict=True):
        if hit is None or hit.coverage < data.contamination.review_coverage:
            continue
        where = f"{hit.coverage:.2f} of item {hit.item} of {hit.name}"
        part.notes.append(Note(item.origin, "", f"{REPEATS}: {where}"))
        if hit.coverage >= data.contamination.drop_coverage:
            hit_documents.add(unit_of(item, data.form))
    for item in items:
        if unit_of(item, data.form) in hit_documents:
            item.drop(REPEATS)
