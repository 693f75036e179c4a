"""How much of a held-out text stands in training text: the share of its n-grams found there (eval_data B5).

Plain 13-gram matching flags 93 % of contracts for their boilerplate; the share tells a copy from it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.ngrams import Sieve, begins, make_sieve, own_ngrams, passing, portions
from data_prep.reference_items import read_items
from data_prep.shingles import Indices
from data_prep.spill import Numbers
from finetune.config.data import ContaminationConfig

MOST_NGRAMS = 60_000_000
"""Held-out n-grams in memory, 16 bytes each; beyond them another pass over the training texts is made."""
PARTS = 32
FEWEST_BOILERPLATE = 10
"""In fewer training texts an n-gram is no boilerplate, however few there are: it may be a copy's copy."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The held-out item that a text repeats most: its file, its number there from 1, the share of it found."""

    name: str
    item: int
    coverage: float


@dataclass(frozen=True)
class References:
    """The n-grams of held-out items, sorted: small, and ready to be sent to a worker process."""

    places: list[tuple[str, int]] = field(default_factory=list)
    """File and number of the item that each text belongs to: an item is several texts (`read_items`)."""
    sizes: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    numbers: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    owners: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lengths: tuple[int, ...] = ()
    """The lengths of n-grams, in words, that occur."""
    sieve: Sieve = field(default_factory=lambda: np.zeros(1, dtype=np.uint8))
    begins: Sieve = field(default_factory=lambda: np.zeros(1, dtype=np.uint8))
    """For the first LEAST_WORDS words of n-grams: most places in a text need no second look."""
    unjudged: int = 0
    """Items of fewer than LEAST_WORDS words, which are never a hit."""

    def covered(self, texts: Sequence[str]) -> list[Hit | None]:
        """For each text the item of which most stands in it, None where nothing of any does."""
        if not self.lengths:
            return [None] * len(texts)
        return list(chain.from_iterable(map(self._covered, portions(texts))))

    def _covered(self, texts: Sequence[str]) -> list[Hit | None]:
        found: list[Hit | None] = [None] * len(texts)
        numbers, rows = passing(texts, self.lengths, self.sieve, self.begins)
        first = np.searchsorted(self.numbers, numbers, "left")
        count = np.searchsorted(self.numbers, numbers, "right") - first
        matches = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        keys = np.repeat(rows, count) * len(self.sizes) + self.owners[matches]
        pairs, shared = np.unique(keys, return_counts=True)
        row, owner = np.divmod(pairs, len(self.sizes))
        coverage = shared / self.sizes[owner]
        order = np.lexsort((-owner, coverage, row))
        last = order[np.diff(row[order], append=-1) != 0]  # a row's best, and the first item of equals
        for pair in last.tolist():
            name, item = self.places[owner[pair]]
            found[row[pair]] = Hit(name, item, float(coverage[pair]))
        return found


def load_references(paths: Sequence[str], root: Path, settings: ContaminationConfig) -> References:
    """The n-grams of the configured held-out sets. Raises DataError as `read_items` does."""
    items = [item for name in paths for item in read_items(root / name, name, settings.ngram_words)]
    places = [(item.name, item.number) for item in items for _ in item.texts]
    texts = [text for item in items for text in item.texts]
    if not texts:
        return References()
    own = [own_ngrams(portion, settings.ngram_words) for portion in portions(texts)]
    lengths = np.concatenate([one.lengths for one in own])
    sizes = np.concatenate([one.sizes for one in own])
    numbers = np.concatenate([one.numbers for one in own])
    order = np.argsort(numbers, kind="stable")
    judged = {place for place, length in zip(places, lengths.tolist(), strict=True) if length}
    return References(
        places,
        sizes,
        numbers[order],
        np.repeat(np.arange(len(sizes)), sizes)[order],
        tuple(np.unique(lengths[lengths > 0]).tolist()),
        make_sieve([numbers[order]]),
        make_sieve([np.concatenate([begins(portion) for portion in portions(texts)])]),
        len(set(places) - judged),
    )


def held_out_coverage(
    held_out: Iterable[Sequence[str]],
    train: Callable[[], Iterable[Sequence[str]]],
    settings: ContaminationConfig,
) -> NDArray[np.float64]:
    """For every held-out text the share of its n-grams that stand in training texts, boilerplate aside.

    Both sides come in batches. `train` is called once for every MOST_NGRAMS held-out n-grams. NaN for a text of
    fewer than LEAST_WORDS words. An n-gram in more than `boilerplate_fraction` of the training texts, and in more
    than FEWEST_BOILERPLATE, counts neither as found nor as missing, but the share is never taken of less than
    half the text's n-grams: a text that is all boilerplate but for two of them is not judged by those two.
    """
    held = (portion for batch in held_out for portion in portions(batch))
    found = [_next_coverage(held, train, settings)]
    while found[-1].size:
        found.append(_next_coverage(held, train, settings))
    return np.concatenate(found)


def _next_coverage(
    held_out: Iterator[Sequence[str]],
    train: Callable[[], Iterable[Sequence[str]]],
    settings: ContaminationConfig,
) -> NDArray[np.float64]:
    """The coverage of as many texts as fit in memory, of none where there are no more."""
    ledger = _Ledger.filled(held_out, settings.ngram_words)
    if not ledger.lengths:
        return np.full(len(ledger.sizes), np.nan)
    texts = 0
    for portion in (portion for batch in train() for portion in portions(batch)):
        ledger.count(portion)
        texts += len(portion)
    return ledger.coverage(max(FEWEST_BOILERPLATE, settings.boilerplate_fraction * texts))


@dataclass
class _Part:
    """A range of the hash space: held-out n-grams, whose text each is, in how many training texts it stands.

    Sorted, the count stands beside the first of equal numbers.
    """

    # room that is not written to takes no memory; growing arrays would leave holes of twice their size
    numbers: Numbers = field(default_factory=lambda: np.empty(MOST_NGRAMS // PARTS, dtype=np.uint64))
    owners: NDArray[np.uint32] = field(
        default_factory=lambda: np.empty(MOST_NGRAMS // PARTS, dtype=np.uint32)
    )
    counts: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    used: int = 0

    def add(self, numbers: Numbers, owners: NDArray[np.uint32]) -> None:
        """Append n-grams."""
        end = self.used + len(numbers)
        if end > len(self.numbers):
            self._resize(end + end // 8)
        self.numbers[self.used : end], self.owners[self.used : end] = numbers, owners
        self.used = end

    def sort(self) -> None:
        """Make it ready to be searched."""
        self._resize(self.used)
        order = np.argsort(self.numbers)
        self.numbers[:], self.owners[:] = self.numbers[order], self.owners[order]

    def _resize(self, size: int) -> None:
        self.numbers.resize(size, refcheck=False)
        self.owners.resize(size, refcheck=False)


@dataclass
class _Ledger:
    """The n-grams of some held-out texts, and what the training texts show of them."""

    sizes: Indices
    lengths: tuple[int, ...]
    parts: list[_Part]
    sieve: Sieve

    @classmethod
    def filled(cls, held_out: Iterator[Sequence[str]], ngram_words: int) -> "_Ledger":
        """As many texts as MOST_NGRAMS allow, none where there are no more."""
        parts = [_Part() for _ in range(PARTS)]
        sizes, lengths, texts, ngrams = [np.empty(0, dtype=np.int64)], set[int](), 0, 0
        while ngrams < MOST_NGRAMS and (portion := next(held_out, None)) is not None:
            own = own_ngrams(portion, ngram_words)
            owners = np.repeat(np.arange(texts, texts + len(portion), dtype=np.uint32), own.sizes)
            part_of = _part_of(own.numbers)
            for number, part in enumerate(parts):
                part.add(own.numbers[part_of == number], owners[part_of == number])
            texts, ngrams = texts + len(portion), ngrams + len(own.numbers)
            sizes.append(own.sizes)
            lengths |= set(own.lengths.tolist()) - {0}
        counts = np.zeros(
            ngrams, dtype=np.uint32
        )  # one for all: pages that are not counted in take no memory
        for part, end in zip(parts, np.cumsum([part.used for part in parts]).tolist(), strict=True):
            part.sort()
            part.counts = counts[end - part.used : end]
        return cls(
            np.concatenate(sizes), tuple(sorted(lengths)), parts, make_sieve([part.numbers for part in parts])
        )

    def count(self, texts: Sequence[str]) -> None:
        """Add to every n-gram the number of these training texts that hold it."""
        numbers, _ = passing(texts, self.lengths, self.sieve)
        first = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] ^ np.uint64(1)))
        holders = np.diff(first, append=len(numbers)).astype(np.uint32)
        numbers = numbers[first]
        bounds = np.searchsorted(_part_of(numbers), np.arange(PARTS + 1))
        for part, start, end in zip(self.parts, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            place = np.searchsorted(part.numbers, numbers[start:end])
            known = place < part.used
            known[known] = part.numbers[place[known]] == numbers[start:end][known]
            part.counts[place[known]] += holders[start:end][known]

    def coverage(self, boilerplate: float) -> NDArray[np.float64]:
        """The share of each text's n-grams that were found, where more than so many texts make boilerplate."""
        telling = np.zeros(len(self.sizes), dtype=np.int64)
        found = np.zeros(len(self.sizes), dtype=np.int64)
        for part in self.parts:
            first = np.diff(part.numbers, prepend=part.numbers[:1] ^ np.uint64(1)) != 0
            counts = part.counts[np.flatnonzero(first)[np.cumsum(first) - 1]]
            said = counts <= boilerplate
            telling += np.bincount(part.owners[said], minlength=len(telling))
            found += np.bincount(part.owners[said & (counts > 0)], minlength=len(found))
        with np.errstate(invalid="ignore"):  # a text without an n-gram: 0 / 0
            return found / np.maximum(telling, self.sizes / 2)


def _part_of(numbers: Numbers) -> Indices:
    return (numbers >> np.uint64(64 - PARTS.bit_length() + 1)).astype(np.int64)
