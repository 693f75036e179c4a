"""Prepared rows as token ids and labels, counted, in the order the steps take them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.chat import IGNORE, Encoded, Renderer
from finetune.config.schema import TrainConfig
from finetune.errors import RefusedError

WINDOW_BATCHES = 32


@dataclass(frozen=True)
class TrainingRows:
    """What is learned: encoded rows, the order the steps take them in, and the counts for the manifest."""

    rows: list[Encoded]
    order: list[int]
    counts: dict[str, int]
    ids: list[str]
    """Row ids, parallel to `rows`: the row at place k of the run is `ids[order[k]]`."""


def encode_rows(rows: Sequence[Mapping[str, Any]], renderer: Renderer, train: TrainConfig) -> TrainingRows:
    """Every row within `train.max_tokens`, encoded and put in order; longer ones counted.

    Raises RefusedError where more than `train.max_over_length_fraction` are too long, or none is left.
    """
    encoded = [renderer.row(row["messages"], row["target"]) for row in rows]
    fitting = [index for index, row in enumerate(encoded) if len(row.ids) <= train.max_tokens]
    kept = [encoded[index] for index in fitting]
    too_long = len(encoded) - len(kept)
    if too_long > train.max_over_length_fraction * len(encoded) or not kept:
        longest = max((len(row.ids) for row in encoded), default=0)
        raise RefusedError(
            f"{too_long} of {len(encoded)} rows exceed train.max_tokens={train.max_tokens} (longest {longest}); "
            f"raise train.max_tokens, shorten the documents, or allow it with train.max_over_length_fraction"
        )
    order = step_order([len(row.ids) for row in kept], train)
    ids = [str(rows[index]["id"]) for index in fitting]
    return TrainingRows(kept, order, {**_counts(kept, order, train), "rows_too_long": too_long}, ids)


def _counts(rows: Sequence[Encoded], order: Sequence[int], train: TrainConfig) -> dict[str, int]:
    """What the steps really see: a row of a second epoch counts twice, one that no step takes not at all."""
    return {
        "rows": len(rows),
        "rows_never_seen": len(rows) - len(set(order)),
        "steps": len(order) // train.global_batch,
        "tokens": sum(len(rows[index].ids) for index in order),
        "trained_tokens": sum(label != IGNORE for index in order for label in rows[index].labels),
    }


def step_order(lengths: Sequence[int], train: TrainConfig) -> list[int]:
    """Row indices for the whole run, one global batch after the other.

    Every epoch is shuffled by seed, then sorted by length within windows of some batches and the batches
    shuffled again: rows of a batch have similar length, so little is computed on padding. The order is a
    function of its arguments alone, so a resumed run finds its place by counting steps.
    """
    picker = random.Random(train.seed)  # noqa: S311  (shuffling, not secrecy)
    total = train.global_batch * steps(len(lengths), train)
    order: list[int] = []
    while len(order) < total:
        order += _epoch(lengths, train.global_batch, picker)
    return order[:total]


def steps(rows: int, train: TrainConfig) -> int:
    """Optimizer steps of the run: `max_steps`, or the whole batches of `epochs`, at least one."""
    return train.max_steps or max(1, int(rows * train.epochs) // train.global_batch)


def _epoch(lengths: Sequence[int], batch: int, picker: random.Random) -> list[int]:
    shuffled = picker.sample(range(len(lengths)), len(lengths))
    window = batch * WINDOW_BATCHES
    ordered = [
        index
        for start in range(0, len(shuffled), window)
        for index in sorted(shuffled[start : start + window], key=lambda index: lengths[index])
    ]
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    picker.shuffle(batches)
    return [index for rows in batches for index in rows]
