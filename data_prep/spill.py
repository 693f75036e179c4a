"""Pairs of a 64-bit number and a row, more than fit in memory, given back sorted part by part."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
Rows = NDArray[np.uint32]

PAIR = np.dtype([("number", "<u8"), ("row", "<u4")])
PARTS_BITS = 6
HELD_PAIRS = 8_000_000
"""Kept in memory (96 MB) before the first is written: small data never touches the disk."""


class Spill:
    """Takes pairs in any order; `parts()` yields all of them by ranges of the number, each range sorted.

    Memory: `HELD_PAIRS`, or the largest of 64 ranges where that is more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: list[tuple[Numbers, Rows]] = []
        self.pairs_held = 0
        self.spilled = False

    def add(self, numbers: Numbers, rows: Rows) -> None:
        """Take so many pairs."""
        self.held.append((numbers, rows))
        self.pairs_held += len(numbers)
        if self.pairs_held >= HELD_PAIRS:
            self._write()

    def parts(self) -> Iterator[tuple[Numbers, Rows]]:
        """Numbers and rows, sorted by number and then row; no number stands in two parts."""
        if not self.spilled:
            yield _sorted(*self._take())
            return
        self._write()
        for part in range(2**PARTS_BITS):
            path = self._path(part)
            pairs = np.fromfile(path, dtype=PAIR) if path.exists() else np.empty(0, dtype=PAIR)
            yield _sorted(pairs["number"], pairs["row"])

    def _take(self) -> tuple[Numbers, Rows]:
        numbers = [held for held, _ in self.held] or [np.empty(0, dtype=np.uint64)]
        rows = [held for _, held in self.held] or [np.empty(0, dtype=np.uint32)]
        return np.concatenate(numbers), np.concatenate(rows)

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers, rows = self._take()
        self.held, self.pairs_held, self.spilled = [], 0, True
        part_of = (numbers >> np.uint64(64 - PARTS_BITS)).astype(np.uint8)
        order = np.argsort(part_of, kind="stable")
        pairs = np.empty(len(numbers), dtype=PAIR)
        pairs["number"], pairs["row"] = numbers[order], rows[order]
        ends = np.cumsum(np.bincount(part_of, minlength=2**PARTS_BITS)).tolist()
        for part, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            with self._path(part).open("ab") as stream:
                stream.write(pairs[start:end].tobytes())  # tofile hides that a disk is full

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:02d}.pairs"


def _sorted(numbers: Numbers, rows: Rows) -> tuple[Numbers, Rows]:
    order = np.argsort(numbers, kind="stable")  # rows were added in ascending order
    return numbers[order], rows[order]
