"""Proves from scratch that a split does not leak. Shares no judgement with what made it.

The splitter looks rows up by their rarest shingles; here the words are cut and hashed again by other code, and
every row of one side is measured against all rows of the other by a product of sparse matrices, the rows with
the most shared n-grams first, until no other row can reach what was found. Only the plumbing is common: worker
processes and sorting on disk.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.cross_similarity import SIDES, Array, measure
from data_prep.parallel import mapped, slices
from data_prep.spill import Spill
from finetune.config.data import NearDuplicateConfig
from finetune.errors import RefusedError

PAIRS = tuple(combinations(range(len(SIDES)), 2))
BATCH_ROWS = 1000
SHOWN = 5
SAMPLED_ROWS = 2000
"""Rows whose near duplicates are counted to say what a random split would leak."""


@dataclass(frozen=True)
class Placement:
    """A finished split, row by row: what the proof looks at."""

    texts: Sequence[str]
    """Slices of it travel to worker processes."""
    sides: Sequence[str]
    groups: Sequence[Any]
    source_groups: Sequence[tuple[str, ...]]
    documents: Sequence[Any]
    """What must not be cut: equal for the windows of one document."""
    labels: Sequence[tuple[str, ...]]
    times: Sequence[str | None]
    name: Callable[[int], str]
    """The opaque id of a row."""


@dataclass(frozen=True)
class Proof:
    """What was measured on a split without leaks."""

    cross_split_max: dict[str, float]
    """The highest Jaccard similarity between two sides, as `train/test`."""
    cross_split_bound: dict[str, float]
    """No pair is above it: the same number where every row that could be was measured."""
    coverage: dict[str, float]
    """Share of a test row's n-grams that stand anywhere in train: median, p90, max."""
    random_leak: float
    """Test rows expected to have a near duplicate in train, had the rows been split at random."""
    unlearned_labels: int
    """Labels of the test set that no training row has."""


def verify(placement: Placement, near: NearDuplicateConfig, seed: int, folder: Path, workers: int) -> Proof:
    """Measure the split. Raises RefusedError with the ids of the leaking pairs where it leaks.

    `folder` takes temporary files.
    """
    problems = [*_empty_sides(placement), *_shortened(list(_too_late(placement)))]
    sides = np.array([SIDES.index(side) for side in placement.sides], dtype=np.uint8)
    grams, sizes, texts = _grams_of(placement.texts, near.shingle_words, folder, workers)
    problems += _shortened(list(_shared(placement, texts)))
    sample = _sample(len(sides), seed)
    measured = measure(grams, sizes, sides, sample, near.max_shingle_fraction)
    highest, bound, leaks = {}, {}, []
    for one, other in PAIRS:
        name = f"{SIDES[one]}/{SIDES[other]}"
        highest[name], bound[name], found = measured.compare(one, other, near.jaccard)
        leaks += found
    problems += _shortened(list(_near_leaks(placement, leaks, near.jaccard)))
    if problems:
        raise RefusedError(problems)
    return Proof(
        {name: round(value, 4) for name, value in highest.items()},
        {name: round(value, 4) for name, value in bound.items()},
        measured.coverage(),
        round(measured.random_leak(sample, near.jaccard), 1),
        len(_labels(placement, "test") - _labels(placement, "train")),
    )


def _empty_sides(placement: Placement) -> Iterator[str]:
    filled = set(placement.sides)
    for side in SIDES:
        if side not in filled:
            yield f"the split has no {side} row; add documents or raise its fraction in data.split"


def _too_late(placement: Placement) -> Iterator[str]:
    """In a split by time no side may hold a row that is newer than all rows of a group on a later side."""
    if not all(placement.times):
        return
    newest: dict[Any, int] = {}
    newest_of: dict[tuple[str, Any], int] = {}
    for row, (side, group) in enumerate(zip(placement.sides, placement.groups, strict=True)):
        _keep_newest(newest, side, row, placement)
        _keep_newest(newest_of, (side, group), row, placement)
    for (side, _), row in newest_of.items():
        for earlier in SIDES[: SIDES.index(side)]:
            other = newest.get(earlier, row)
            if str(placement.times[other]) > str(placement.times[row]):
                yield (
                    f"leak: row {placement.name(other)} in {earlier} is newer than the group of row "
                    f"{placement.name(row)} in {side}, in a split by time"
                )


def _keep_newest(known: dict[Any, int], key: Any, row: int, placement: Placement) -> None:
    if key not in known or str(placement.times[row]) > str(placement.times[known[key]]):
        known[key] = row


def _labels(placement: Placement, side: str) -> set[str]:
    held = (labels for labels, where in zip(placement.labels, placement.sides, strict=True) if where == side)
    return {label for labels in held for label in labels}


def _shared(placement: Placement, texts: Array) -> Iterator[str]:
    """Groups, source groups and equal texts that stand on two sides."""
    keys: list[tuple[str, Callable[[int], Sequence[Any]]]] = [
        ("group", lambda row: (placement.groups[row],)),
        ("source group", lambda row: placement.source_groups[row]),
        ("document", lambda row: (placement.documents[row],)),
        ("text", lambda row: (int(texts[row]),)),
    ]
    for kind, keys_of in keys:
        holders: dict[Any, int] = {}
        for row, side in enumerate(placement.sides):
            for key in keys_of(row):
                first = holders.setdefault(key, row)
                if placement.sides[first] != side:
                    yield (
                        f"leak: row {placement.name(first)} in {placement.sides[first]} and row "
                        f"{placement.name(row)} in {side} share one {kind}"
                    )


def _near_leaks(placement: Placement, pairs: Sequence[tuple[int, int]], threshold: float) -> Iterator[str]:
    for one, other in pairs:
        yield (
            f"leak: row {placement.name(one)} in {placement.sides[one]} and row {placement.name(other)} in "
            f"{placement.sides[other]} are near duplicates (data.near_duplicates.jaccard={threshold})"
        )


def _shortened(leaks: list[str]) -> list[str]:
    return leaks if len(leaks) <= SHOWN else [*leaks[:SHOWN], f"leak: {len(leaks) - SHOWN} more of this kind"]


def _grams_of(texts: Sequence[str], words: int, folder: Path, workers: int) -> tuple[Spill, Array, Array]:
    """Every distinct n-gram of every row as a number, their count by row, and a number for each whole text."""
    grams = Spill(folder)
    sizes: list[Array] = []
    wholes: list[Array] = []
    batches = (texts[part] for part in slices(len(texts), BATCH_ROWS))
    done = 0
    for numbers, counts, whole in mapped(partial(_hashed, words), batches, workers):
        rows = np.arange(done, done + len(counts), dtype=np.uint32)
        grams.add(numbers, np.repeat(rows, counts))
        sizes.append(counts)
        wholes.append(whole)
        done += len(counts)
    return grams, np.concatenate(sizes), np.concatenate(wholes)


def _hashed(words: int, texts: Sequence[str]) -> tuple[Array, Array, Array]:
    found: list[int] = []
    counts: list[int] = []
    wholes: list[int] = []
    for text in texts:
        whole = " ".join(text.casefold().split())
        tokens = [token.encode() for token in re.findall(r"\w+", whole) or [whole]]
        joined = b" ".join(tokens)
        ends = [end - 1 for end in accumulate(len(token) + 1 for token in tokens)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        ranges = zip(starts, ends[words - 1 :] or ends[-1:], strict=False)
        grams = {xxhash.xxh3_64_intdigest(joined[start:end]) for start, end in ranges}
        found += grams
        counts.append(len(grams))
        wholes.append(xxhash.xxh3_64_intdigest(whole.encode()))
    return np.array(found, dtype=np.uint64), np.array(counts), np.array(wholes, dtype=np.uint64)


def _sample(rows: int, seed: int) -> Array:
    order = sorted(range(rows), key=lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest())
    return np.array(sorted(order[:SAMPLED_ROWS]), dtype=np.int64)
