"""Proves from scratch that a split does not leak. Shares no code with what made it.

The splitter finds candidates by an inverted index over rare shingles; here every pair of rows is
compared, by a product of sparse matrices.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from finetune.config.schema import NearDuplicateConfig
from finetune.errors import RefusedError

SIDES = ("train", "val", "test")
BLOCK_ROWS = 1024
SHOWN = 5


@dataclass(frozen=True)
class Placed:
    """A row as the split placed it: what the proof looks at."""

    id: str
    side: str
    text: str
    group: str
    source_groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What was measured on a split without leaks."""

    cross_split_max: dict[str, float]
    """The highest Jaccard similarity between two sides, as `train/test`."""
    random_leak: int
    """Test rows with a near duplicate in train, had the rows been split at random into the same sizes."""


def verify(rows: Sequence[Placed], near: NearDuplicateConfig, seed: int) -> Proof:
    """Measure the split. Raises RefusedError with the ids of the leaking pairs where it leaks."""
    problems = [*_empty_sides(rows), *_shortened(list(_shared(rows)))]
    sides = np.array([SIDES.index(row.side) for row in rows])
    highest = dict.fromkeys((f"{one}/{other}" for one, other in combinations(SIDES, 2)), 0.0)
    near_pairs: list[tuple[int, int]] = []
    for left, right, jaccard in _similarities(rows, near.shingle_words):
        near_mask = jaccard >= near.jaccard
        near_pairs += zip(left[near_mask].tolist(), right[near_mask].tolist(), strict=True)
        _raise_highest(highest, sides[left], sides[right], jaccard)
    problems += _shortened(list(_near_leaks(rows, near_pairs, near.jaccard)))
    if problems:
        raise RefusedError(problems)
    return Proof(
        {name: round(value, 4) for name, value in highest.items()}, _random_leak(rows, near_pairs, seed)
    )


def _empty_sides(rows: Sequence[Placed]) -> Iterator[str]:
    filled = {row.side for row in rows}
    for side in SIDES:
        if side not in filled:
            yield f"the split has no {side} row; add documents or raise its fraction in data.split"


def _shared(rows: Sequence[Placed]) -> Iterator[str]:
    """Components, source groups and equal texts that stand on two sides."""
    holders: dict[tuple[str, str], Placed] = {}
    for row in rows:
        keys = [("group", row.group), ("text", " ".join(row.text.casefold().split()))]
        keys += [("source group", group) for group in row.source_groups]
        for kind, key in keys:
            first = holders.setdefault((kind, key), row)
            if first.side != row.side:
                yield f"leak: row {first.id} in {first.side} and row {row.id} in {row.side} share one {kind}"


def _near_leaks(rows: Sequence[Placed], pairs: Sequence[tuple[int, int]], threshold: float) -> Iterator[str]:
    for one, other in ((rows[one], rows[other]) for one, other in pairs):
        if one.side != other.side:
            yield (
                f"leak: row {one.id} in {one.side} and row {other.id} in {other.side} are near duplicates "
                f"(data.near_duplicates.jaccard={threshold})"
            )


def _shortened(leaks: list[str]) -> list[str]:
    return leaks if len(leaks) <= SHOWN else [*leaks[:SHOWN], f"leak: {len(leaks) - SHOWN} more of this kind"]


def _grams(text: str, words: int) -> set[str]:
    tokens = re.findall(r"\w+", text.casefold()) or [" ".join(text.casefold().split())]
    count = max(1, len(tokens) - words + 1)
    return {" ".join(tokens[start : start + words]) for start in range(count)}


def _similarities(rows: Sequence[Placed], words: int) -> Iterator[tuple[Any, Any, Any]]:
    """Positions and Jaccard similarities of all pairs that share a shingle, a block of rows at a time."""
    vocabulary: defaultdict[str, int] = defaultdict(lambda: len(vocabulary))
    columns: list[int] = []
    ends = [0]
    for row in rows:
        columns += [vocabulary[gram] for gram in _grams(row.text, words)]
        ends.append(len(columns))
    ones = np.ones(len(columns), dtype=np.int32)
    matrix = csr_matrix((ones, columns, ends), shape=(len(rows), len(vocabulary)))
    sizes = np.diff(ends)
    for start in range(0, len(rows), BLOCK_ROWS):
        shared = (matrix[start : start + BLOCK_ROWS] @ matrix.T).tocoo()
        upper = shared.row + start < shared.col
        left, right, count = shared.row[upper] + start, shared.col[upper], shared.data[upper]
        yield left, right, count / (sizes[left] + sizes[right] - count)


def _raise_highest(highest: dict[str, float], left: Any, right: Any, jaccard: Any) -> None:
    for (one, side), (other, other_side) in combinations(enumerate(SIDES), 2):
        mask = ((left == one) & (right == other)) | ((left == other) & (right == one))
        if mask.any():
            name = f"{side}/{other_side}"
            highest[name] = max(highest[name], float(jaccard[mask].max()))


def _random_leak(rows: Sequence[Placed], near_pairs: Sequence[tuple[int, int]], seed: int) -> int:
    """Test rows that a plain shuffle of rows into the same sizes would have leaked into train."""
    order = sorted(range(len(rows)), key=lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest())
    sides = sorted(row.side for row in rows)
    side_of = dict(zip(order, sides, strict=True))
    return len(
        {
            test
            for pair in near_pairs
            for test, other in (pair, pair[::-1])
            if side_of[test] == "test" and side_of[other] == "train"
        }
    )
