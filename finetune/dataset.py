"""Prepared rows as token ids and labels, counted, in the order the steps take them."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

from finetune.chat import IGNORE, Encoded, Renderer
from finetune.config.schema import TrainConfig
from finetune.errors import RefusedError
from finetune.row_tokens import RowTokens
from finetune.token_report import TokenReport, examine_rows, require_sound

WINDOW_BATCHES = 32


@dataclass(frozen=True)
class TrainingRows:
    """What is learned: encoded rows, the order the steps take them in, and the counts for the manifest."""

    rows: list[Encoded]
    order: list[int]
    counts: dict[str, int]
    ids: list[str]
    """Row ids, parallel to `rows`: the row at place k of the run is `ids[order[k]]`."""
    report: TokenReport | None = None
    """What was looked at before the first step; None where the rows were made for a measurement."""


def encode_rows(rows: Sequence[Mapping[str, Any]], renderer: Renderer, train: TrainConfig) -> TrainingRows:
    """The rows that can be learned, encoded and put in order; what is left out is counted in `report`.

    Raises RefusedError where a budget of `train` is exceeded, none is left, or the tokens are not what they must be.
    """
    kept, report = _sound(rows, renderer, train, "rows")
    sets = [row.data for row in kept]
    _require_all_mixed(sets, train)
    order = step_order([len(row.encoded.ids) for row in kept], train, sets)
    counts = _counts([row.encoded for row in kept], order)
    counts |= {"rows_never_seen": len(kept) - len(set(order)), "steps": len(order) // train.global_batch}
    if train.mix:
        report = replace(report, data=_by_data(kept, order))
        counts |= {f"{key}_of_{name}": value for name, of in report.data.items() for key, value in of.items()}
    return _training_rows(kept, order, counts, report)


def encode_validation(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, train: TrainConfig
) -> TrainingRows:
    """The validation rows, each once, the longest first so that memory trouble shows at once.

    Held to the same budgets as the training rows. No rows give none.
    """
    kept, report = _sound(rows, renderer, train, "validation rows") if rows else ([], None)
    order = sorted(range(len(kept)), key=lambda index: (-len(kept[index].encoded.ids), index))
    return _training_rows(kept, order, _counts([row.encoded for row in kept], order), report)


def _sound(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, train: TrainConfig, kind: str
) -> tuple[list[RowTokens], TokenReport]:
    found, report = examine_rows(rows, renderer, train.max_tokens)
    require_sound(report, train, kind)
    return [row for row in found if row.fault is None], report


def _require_all_mixed(sets: Sequence[str], train: TrainConfig) -> None:
    gone = sorted(train.mix.keys() - set(sets))
    if gone:
        raise RefusedError(
            [
                f"train.mix.{name}: no row of {name} is left to learn from; leave it out of train.mix"
                for name in gone
            ]
        )


def _training_rows(
    kept: Sequence[RowTokens], order: list[int], counts: dict[str, int], report: TokenReport | None
) -> TrainingRows:
    counts = {**counts, **(report.counts() if report else {})}
    return TrainingRows([row.encoded for row in kept], order, counts, [row.id for row in kept], report)


def _counts(rows: Sequence[Encoded], order: Sequence[int]) -> dict[str, int]:
    """What the steps really see: a row of a second epoch counts twice, one that no step takes not at all."""
    return {
        "rows": len(rows),
        "tokens": sum(len(rows[index].ids) for index in order),
        "trained_tokens": sum(label != IGNORE for index in order for label in rows[index].labels),
    }


def _by_data(kept: Sequence[RowTokens], order: Sequence[int]) -> dict[str, dict[str, int]]:
    """Of each mixed data set: its rows, how often a step sees one of them, and the tokens learned from them."""
    rows = Counter(row.data for row in kept)
    seen = Counter(kept[index].data for index in order)
    trained: Counter[str] = Counter()
    for index in order:
        trained[kept[index].data] += kept[index].learned
    return {
        name: {"rows": rows[name], "rows_seen": seen[name], "trained_tokens": trained[name]}
        for name in sorted(rows)
    }


def step_order(lengths: Sequence[int], train: TrainConfig, sets: Sequence[str] = ()) -> list[int]:
    """Row indices for the whole run, one global batch after the other.

    Every epoch is shuffled by seed, then sorted by length within windows of some batches and the batches
    shuffled again: rows of a batch have similar length, so little is computed on padding. With `train.mix`, `sets`
    names each row's data set; every set runs through epochs of its own, and the places are dealt out by weight.
    The order is a function of its arguments alone, so a resumed run finds its place by counting steps.
    """
    total = train.global_batch * steps(len(lengths), train)
    if not train.mix:
        picker = random.Random(train.seed)  # noqa: S311  (shuffling, not secrecy)
        stream = _epochs(range(len(lengths)), lengths, train.global_batch, picker)
        return [next(stream) for _ in range(total)]
    return _mixed_order(lengths, train, sets, total)


def steps(rows: int, train: TrainConfig) -> int:
    """Optimizer steps of the run: `max_steps`, or the whole batches of `epochs`, at least one."""
    return train.max_steps or max(1, int(rows * train.epochs) // train.global_batch)


def _mixed_order(lengths: Sequence[int], train: TrainConfig, sets: Sequence[str], total: int) -> list[int]:
    weights = {name: Fraction(weight) for name, weight in sorted(train.mix.items())}
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    members = {name: [index for index, own in enumerate(sets) if own == name] for name in shares}
    streams = {}
    for name, share in shares.items():
        picker = random.Random(f"{train.seed} {name}")  # noqa: S311  (shuffling, not secrecy)
        run = max(1, round(share * train.global_batch))
        streams[name] = _epochs(members[name], lengths, run, picker)
    order = [next(streams[name]) for name in deal(shares, total)]
    batches = [order[start : start + train.global_batch] for start in range(0, total, train.global_batch)]
    # within a step the order is free: micro-batches of similar length
    return [index for batch in batches for index in sorted(batch, key=lambda index: lengths[index])]


def deal(shares: Mapping[str, Fraction], places: int) -> Iterator[str]:
    """A name for each place, so that of any first k places each name has its share of k to within less than one.

    The j-th place of a share s falls due in the places from j/s to (j+1)/s; the earliest due goes first (the quota
    method of just-in-time sequencing, Steiner and Yeomans 1993). Exact fractions: rounding would break ties.
    """
    taken = dict.fromkeys(shares, 0)
    for place in range(places):
        released = [name for name, share in shares.items() if floor(taken[name] / share) <= place]
        name = min(released, key=lambda name: (ceil((taken[name] + 1) / shares[name]), name))
        taken[name] += 1
        yield name


def _epochs(
    members: Sequence[int], lengths: Sequence[int], batch: int, picker: random.Random
) -> Iterator[int]:
    """Rows without end, epoch after epoch; whole batches begin where those of the run begin."""
    place = 0
    while True:
        epoch = _epoch(picker.sample(members, len(members)), lengths, batch, -place % batch, picker)
        place += len(epoch)
        yield from epoch


def _epoch(
    shuffled: list[int], lengths: Sequence[int], batch: int, head: int, picker: random.Random
) -> list[int]:
    """The rows with the first `head` of them, which fill the last epoch's batch, and an unfilled batch's at the end."""
    tail = head + (len(shuffled) - head) // batch * batch
    whole, window = shuffled[head : max(head, tail)], batch * WINDOW_BATCHES
    ordered = [
        index
        for start in range(0, len(whole), window)
        for index in sorted(whole[start : start + window], key=lambda index: lengths[index])
    ]
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    picker.shuffle(batches)
    return [*shuffled[:head], *(index for rows in batches for index in rows), *shuffled[max(head, tail) :]]
