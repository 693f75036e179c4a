"""log.jsonl: a first line with what the run is going to take, then a row for every step that was logged.

Each checkpoint holds it up to its own place, so that it goes on there, on another machine too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic

Row = Mapping[str, Any]
LOG = "log.jsonl"
TAIL = 1 << 16
"""Bytes at the end of a log that hold its last row for certain."""


@dataclass(frozen=True)
class Ends:
    """The first line of a log and the last row with a training loss; empty where there is none yet."""

    header: Row
    last: Row


def restored(path: Path, checkpoint: Path | None) -> list[Row]:
    """The rows that a checkpoint's folder has of the log, which are all that is left in `path`.

    A run that goes on from there logs what comes after it again. No row and no log where there is no checkpoint, and
    where it is of code that kept none in it.
    """
    saved = checkpoint / LOG if checkpoint is not None else None
    text = saved.read_text(encoding="utf-8") if saved is not None and saved.is_file() else ""
    if text or path.exists():
        atomic.replace_text(path, text)
    return [json.loads(line) for line in text.splitlines()]


def line_of(row: Row) -> str:
    """A row as it stands in the log."""
    return json.dumps(row) + "\n"


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
