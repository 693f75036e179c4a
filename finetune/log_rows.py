"""log.jsonl: a first line with what the run is going to take, then a row for every step that was logged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic
from finetune.errors import DataError

Row = Mapping[str, Any]
LOG = "log.jsonl"
TAIL = 1 << 16
"""Bytes at the end of a log that hold its last row for certain."""


@dataclass(frozen=True)
class Ends:
    """The first line of a log and the last row with a training loss; empty where there is none yet."""

    header: Row
    last: Row


def rewind(path: Path, step: int) -> list[Row]:
    """The rows of a log up to `step`, which are all that is left in the file; empty where there is no log.

    A run that goes on from `step` logs what comes after it again. Half a line at the end is what a kill left. Raises
    DataError where another line is damaged.
    """
    if not path.is_file():
        return []
    kept = [row for row in _rows(path) if row.get("step", 0) <= step]
    atomic.replace_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def _rows(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [_parsed(line) for line in lines]
    for number, row in enumerate(rows[:-1], 1):
        if row is None:
            raise DataError(
                f"{path}:{number} is damaged; delete the file, and the run goes on with a new log"
            )
    return [row for row in rows if row is not None]


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_ends(path: Path) -> Ends:
    """What a log says at its two ends, also while it is being written; reads no more than these."""
    with path.open("rb") as stream:
        first = _parsed(stream.readline().decode(errors="replace"))
        size = stream.seek(0, 2)
        stream.seek(max(0, size - TAIL))
        tail = stream.read().decode(errors="replace").splitlines()
    rows = [row for row in map(_parsed, tail) if row is not None and "train/loss" in row]
    return Ends(first if first and "total_steps" in first else {}, rows[-1] if rows else {})


def told(values: Row, planned_gib: float | None) -> str:
    """Loss, speed and memory of a row in words: `loss 0.412, 2,310 tokens/s, memory 41.2 of 45.0 GiB planned`."""
    parts: Sequence[str] = (
        f"loss {values['train/loss']:.3f}",
        f"{values['train/tokens_per_s']:,.0f} tokens/s",
    )
    gib = values.get("train/peak_memory_gib")
    if gib is not None:
        plan = "" if planned_gib is None else f" of {planned_gib:.1f}"
        parts = (*parts, f"memory {gib:.1f}{plan} GiB{' planned' if plan else ''}")
    return ", ".join(parts)
