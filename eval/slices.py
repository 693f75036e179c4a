"""Where the adapter gains and where it loses: two arms compared on parts of the test rows (exploratory)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import stats
from eval.metrics.classification import label
from eval.metrics.multi_label import labels
from eval.predictions import Pairs, Prediction, group_numbers, pair
from eval.tasks import Task
from eval.tasks.task import LABEL_SETS, Row
from finetune.config.eval import EvalConfig, SliceBy, TaskKind
from finetune.rows import question_of

MIN_ROWS = 30
"""Smaller slices are counted, not shown (eval_data A3.10)."""
LENGTH_BUCKETS = 4
NO_LABEL = "no label"
NO_DRAWS = np.empty(0)
"""Without draws the estimate is Student's t: a quantile of 5,000 draws cannot reach a p that many slices leave of."""

Cut = Callable[[Sequence[Prediction], Mapping[str, Row]], list[list[str]]]
"""The names of the slices that each prediction belongs to; none where it has no such value."""


@dataclass(frozen=True)
class Sliced:
    """The slices large enough to show, and what was left out: `task`, `by`, `slices`, `rows`."""

    shown: list[dict[str, Any]]
    too_small: list[dict[str, Any]]


@dataclass(frozen=True)
class Slice:
    """A part of a task's rows by one property."""

    by: SliceBy
    name: str
    pairs: Pairs


def compare_slices(
    tasks: Sequence[Task],
    arms: tuple[Mapping[str, list[Prediction]], Mapping[str, list[Prediction]]],
    rows: Sequence[Row],
    config: EvalConfig,
    show_labels: bool,
) -> Sliced:
    """`b` minus `a`, whose predictions `arms` holds by task, on every slice of every task.

    Each has a cluster-robust t interval with CR2's error; p is adjusted over all slices (Benjamini-Hochberg) and a
    verdict stands only where the adjusted p holds. `show_labels` only where targets come from a set of labels:
    slices by label bear the label's name.
    """
    by_id = {row["id"]: row for row in rows}
    shown, estimates, too_small = [], [], []
    for task in tasks:
        pairs = pair(arms[0][task.name], arms[1][task.name])
        for by, cut in _cuts(config, config.tasks[task.name].kind, show_labels):
            found = list(_slices(pairs, by, cut(pairs.a, by_id)))
            large = [item for item in found if _is_large(item.pairs)]
            for item in large:
                record, estimated = _compare(task, item, config)
                shown.append(record)
                estimates.append(estimated)
            small = [len(item.pairs.a) for item in found if not _is_large(item.pairs)]
            if small:
                too_small.append({"task": task.name, "by": by.name, "slices": len(small), "rows": sum(small)})
    _adjust(shown, estimates, config)
    return Sliced(shown, too_small)


def worst(shown: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The slice with the least difference; of equal ones that whose interval ends lower, then the first."""
    return min(shown, key=from_the_worst, default=None)


def from_the_worst(item: Mapping[str, Any]) -> tuple[float, float]:
    """What slices are sorted by, the worst first."""
    return item["delta"], item["ci_high"]


def _cuts(config: EvalConfig, kind: TaskKind, show_labels: bool) -> Iterator[tuple[SliceBy, Cut]]:
    """The properties to slice by; labels only where they are of a set: a question or a free answer may be private."""
    cuts = dict(CUTS)
    if kind is TaskKind.spans:
        cuts[SliceBy.label] = (
            _asked  # the kind's rows ask about labels; `labels` of the report names them too
        )
    elif show_labels and kind in LABEL_SETS:
        cuts[SliceBy.label] = _labels
    return ((by, cuts[by]) for by in dict.fromkeys(config.slices) if by in cuts)


def _slices(pairs: Pairs, by: SliceBy, names_of: Sequence[Sequence[str]]) -> Iterator[Slice]:
    """The parts by one property, in the order of their names; one part that is everything is none."""
    members: dict[str, list[int]] = {}
    for index, names in enumerate(names_of):
        for name in names:
            members.setdefault(name, []).append(index)
    if len(members) == 1 and len(next(iter(members.values()))) == len(pairs.a):
        return
    # buckets of length come in their order, other names in theirs
    for name in members if by is SliceBy.length else sorted(members):
        a, b = ([side[index] for index in members[name]] for side in (pairs.a, pairs.b))
        yield Slice(by, name, Pairs(a, b, group_numbers(a)))


def _is_large(pairs: Pairs) -> bool:
    """Whether there are rows enough, and of more than one group: of one nothing can be said about others."""
    return len(pairs.a) >= MIN_ROWS and bool(pairs.groups.any())


def _compare(task: Task, item: Slice, config: EvalConfig) -> tuple[dict[str, Any], stats.Estimate]:
    statistic, metric = None, task.metric.name
    if item.by is not SliceBy.label:  # where all gold answers hold one label, its F1 knows no false alarm
        statistic = task.differences(item.pairs).get(metric)
    if statistic is None:
        scores = [np.array([row["score"] for row in side]) for side in (item.pairs.a, item.pairs.b)]
        statistic, metric = stats.mean_difference(scores[0], scores[1], item.pairs.groups), "exact_match"
    found = stats.estimate(statistic, config, NO_DRAWS)
    values = statistic.arms or (None, None)
    record = {
        "task": task.name,
        "by": item.by.name,
        "slice": item.name,
        "a": item.pairs.a[0]["arm"],
        "b": item.pairs.b[0]["arm"],
        "metric": metric,
        "n": found.n,
        "n_groups": found.n_groups,
        "value_a": values[0],
        "value_b": values[1],
        "delta": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "p": found.p,
    }
    return record, found


def _adjust(shown: list[dict[str, Any]], found: Sequence[stats.Estimate], config: EvalConfig) -> None:
    """Adjusted p and verdict, in place."""
    adjusted = stats.benjamini_hochberg([item["p"] for item in shown])
    for item, estimated, p in zip(shown, found, adjusted, strict=True):
        item["p_adjusted"] = p
        item["verdict"] = stats.verdict(estimated, config.min_gain, config.confidence, p)


def _labels(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    """Every gold label of a row."""
    found = [
        labels(gold) if isinstance(gold := item["gold"], list) else [label(gold)] for item in predictions
    ]
    return [list(dict.fromkeys(names)) or [NO_LABEL] for names in found]


def _asked(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    """The label that a row asks about."""
    return [[item.get("question") or NO_LABEL] for item in predictions]


def _lengths(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    """Quarters of the rows by characters of the user's message; equal lengths are never parted."""
    lengths = np.array([len(question_of(rows[item["id"]])) for item in predictions])
    shares = np.linspace(0, 1, LENGTH_BUCKETS + 1)[1:-1]
    quarters = [*np.quantile(lengths, shares, method="inverted_cdf"), lengths.max()]
    ends = list(dict.fromkeys(int(end) for end in quarters))
    starts = [int(lengths.min()), *(end + 1 for end in ends[:-1])]
    names = [f"{start} to {end} characters" for start, end in zip(starts, ends, strict=True)]
    return [[names[place]] for place in np.searchsorted(ends, lengths)]


def _sources(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    """The file that a row's text comes from, by the start of its sha256: the ledger knows its name."""
    return [
        list(
            dict.fromkeys(f"file {source['sha256'][:8]}" for source in rows[item["id"]].get("sources") or [])
        )
        for item in predictions
    ]


def _languages(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    return [[found] if (found := rows[item["id"]].get("language")) else [] for item in predictions]


def _times(predictions: Sequence[Prediction], rows: Mapping[str, Row]) -> list[list[str]]:
    """The year of an ISO 8601 time, or its month where all are of one year."""
    times = [str(rows[item["id"]].get("time") or "") for item in predictions]
    characters = len("2026") if len({time[:4] for time in times if time}) > 1 else len("2026-11")
    return [[time[:characters]] if time else [] for time in times]


CUTS: Mapping[SliceBy, Cut] = {
    SliceBy.length: _lengths,
    SliceBy.source: _sources,
    SliceBy.language: _languages,
    SliceBy.time: _times,
}
