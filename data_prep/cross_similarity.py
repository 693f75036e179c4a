"""How alike the rows of two sides are at most: a part of the proof in verify_split.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data_prep.spill import Spill

SIDES = ("train", "val", "test")
BLOCK_PRODUCTS = 20_000_000
PATIENCE_PRODUCTS = 2_000_000_000
"""Below the threshold the highest similarity is only reported: beyond this much work a bound is given instead."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """The n-grams that stand on two sides or in a sampled row, as a matrix of rows x n-grams."""

    matrix: csr_array
    sizes: Array
    """Distinct n-grams of each row, boilerplate left out."""
    sides: Array
    reach: Array
    """Sides x rows: how many n-grams of the row stand on that side."""
    known: Array
    """How many n-grams of the row stand in any other row."""

    def compare(self, one: int, other: int, threshold: float) -> tuple[float, float, list[tuple[int, int]]]:
        """Highest similarity between two sides, a bound for it, and the pairs at the threshold."""
        left, right = np.flatnonzero(self.sides == one), np.flatnonzero(self.sides == other)
        if not len(left) or not len(right):
            return 0.0, 0.0, []
        likely = self.reach[one][right] / np.maximum(self.sizes[right], 1)
        order = np.argsort(-likely, kind="stable")
        right, likely = right[order], likely[order]
        columns = self.matrix[left]
        highest, work = 0.0, 0
        leaks: list[tuple[int, int]] = []
        for start, end, products in _blocks(self.matrix[right], columns):
            if likely[start] < threshold and (likely[start] <= highest or work > PATIENCE_PRODUCTS):
                return highest, max(highest, float(likely[start])), leaks
            work += products
            near, far, jaccard = self._jaccard(right[start:end], left, columns)
            highest = max(highest, float(jaccard.max(initial=0.0)))
            found = jaccard >= threshold
            leaks += zip(far[found].tolist(), near[found].tolist(), strict=True)
        return highest, highest, leaks

    def _jaccard(self, rows: Array, others: Array, columns: csr_array) -> tuple[Array, Array, Array]:
        shared = (self.matrix[rows] @ columns.T).tocoo()
        one, two = rows[shared.coords[0]], others[shared.coords[1]]
        return one, two, shared.data / (self.sizes[one] + self.sizes[two] - shared.data)

    def coverage(self) -> dict[str, float]:
        """Share of a test row's n-grams that stand in train."""
        rows = self.sides == SIDES.index("test")
        share = self.reach[0][rows] / np.maximum(self.sizes[rows], 1)
        median, p90 = np.quantile(share, (0.5, 0.9))
        return {
            "median": round(float(median), 4),
            "p90": round(float(p90), 4),
            "max": round(float(share.max()), 4),
        }

    def random_leak(self, sample: Array, threshold: float) -> float:
        """Test rows with a near duplicate in train, expected over all random splits into the same sizes."""
        count = len(self.sides)
        could = sample[self.known[sample] >= threshold * self.sizes[sample]]
        everything = np.arange(count)
        expected = 0.0
        in_train = np.count_nonzero(self.sides == 0) / max(1, count - 1)
        for start, end, _ in _blocks(self.matrix[could], self.matrix):
            one, two, jaccard = self._jaccard(could[start:end], everything, self.matrix)
            near = (jaccard >= threshold) & (one != two)
            neighbours = np.unique(one[near], return_counts=True)[1]
            expected += float((1 - (1 - in_train) ** neighbours).sum())
        return expected / len(sample) * np.count_nonzero(self.sides == SIDES.index("test"))


def _blocks(rows: csr_array, columns: csr_array) -> Iterator[tuple[int, int, int]]:
    """Ranges of rows whose product with the columns stays small, each with its number of multiplications."""
    holders = np.bincount(columns.indices, minlength=columns.shape[1])
    work = np.concatenate(([0], np.cumsum(holders[rows.indices])))[rows.indptr]
    start = 0
    while start < rows.shape[0]:
        end = max(start + 1, int(np.searchsorted(work, work[start] + BLOCK_PRODUCTS, side="right")) - 1)
        yield start, end, int(work[end] - work[start])
        start = end


def measure(grams: Spill, sizes: Array, sides: Array, sample: Array, boilerplate: float | None) -> Measured:
    """Count what rows share: `sizes` and `sides` by row, `sample` the rows whose every n-gram is kept."""
    count = len(sides)
    limit = count if boilerplate is None else max(2, int(boilerplate * count))
    sizes = sizes.copy()
    reach, known = np.zeros((len(SIDES), count), dtype=np.int64), np.zeros(count, dtype=np.int64)
    sampled = np.zeros(count, dtype=np.bool_)
    sampled[sample] = True
    rows_kept: list[Array] = []
    grams_kept: list[Array] = []
    width = 0
    for numbers, rows in grams.parts():
        starts = np.flatnonzero(np.diff(numbers, prepend=~numbers[:1]))
        holders = np.diff(np.append(starts, len(numbers)))
        frequent = np.repeat(holders > limit, holders)
        sizes -= np.bincount(rows[frequent], minlength=count)
        on = np.bitwise_or.reduceat(np.uint8(1) << sides[rows], starts) if len(starts) else holders
        seen = np.logical_or.reduceat(sampled[rows], starts) if len(starts) else holders.astype(bool)
        common = (holders > 1) & (holders <= limit)
        known += np.bincount(rows[np.repeat(common, holders)], minlength=count)
        for side in range(len(SIDES)):
            reach[side] += np.bincount(
                rows[np.repeat(common & (on >> side & 1 > 0), holders)], minlength=count
            )
        wanted = common & (seen | (on & (on - 1) > 0))
        rows_kept.append(rows[np.repeat(wanted, holders)])
        grams_kept.append(np.repeat(np.arange(width, width + np.count_nonzero(wanted)), holders[wanted]))
        width += int(np.count_nonzero(wanted))
    rows, columns = np.concatenate(rows_kept).astype(np.int32), np.concatenate(grams_kept).astype(np.int32)
    matrix = csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(count, width))
    return Measured(matrix, sizes, sides, reach, known)
