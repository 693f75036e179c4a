"""The metrics by which two prediction files are compared: gold and given answers to a paired statistic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval import stats
from eval.metrics import classification, measure
from eval.metrics.label_counts import macro_f1_of_counts
from eval.predictions import Array, Pairs
from finetune.chat import Target
from finetune.errors import DataError


@dataclass(frozen=True)
class PairedMetric:
    """One metric: what it reads and how it becomes a statistic of groups."""

    difference: Callable[[Pairs], stats.GroupStatistic]
    explained: str
    """What it is, in plain words."""
    by_score: bool = False
    """Whether it reads `score` instead of `gold` and `prediction`."""


def exact_match_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Share of answers that are the gold answer, `b` minus `a`."""
    found = measure.difference(classification.measures(None)["exact_match"], pairs)
    assert found is not None  # noqa: S101  (every answer is right or wrong)
    return found


def mean_score_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Mean of `score`, `b` minus `a`."""
    a, b = (np.array([item["score"] for item in arm]) for arm in (pairs.a, pairs.b))
    return stats.mean_difference(a, b, pairs.groups)


def macro_f1_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Macro-F1 over the labels that occur as gold, `b` minus `a`; rows hold one label or a list of them."""
    return _f1_difference(pairs, macro_f1_of_counts)


def micro_f1_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Micro-F1 over all labels, `b` minus `a`; an answer outside the gold labels lowers precision."""
    return _f1_difference(pairs, micro_f1_of_counts)


METRICS = {
    "accuracy": PairedMetric(exact_match_difference, "the share of rows answered exactly right"),
    "exact_match": PairedMetric(exact_match_difference, "the share of rows answered exactly right"),
    "macro_f1": PairedMetric(macro_f1_difference, "F1 averaged over the labels, each counting the same"),
    "micro_f1": PairedMetric(micro_f1_difference, "F1 over all labels together"),
    "mean_score": PairedMetric(mean_score_difference, "the mean of the rows' scores", by_score=True),
}


def micro_f1_of_counts(counts: Array) -> Array:
    """[draws, 3 * labels] counts of gold, right and given labels to [draws] micro-F1 over all of them."""
    gold, hits, said = (part.sum(axis=-1) for part in np.split(counts, 3, axis=-1))
    return np.asarray(2 * hits / np.maximum(gold + said, 1))


def labels_of(value: Target | None) -> frozenset[str]:
    """The labels of an answer: the text itself, or the members of a list; none where it is empty or did not parse.

    Raises DataError where it is a list of spans.
    """
    if not value:
        return frozenset()
    if isinstance(value, str):
        return frozenset((value,))
    if not all(isinstance(item, str) for item in value):
        raise DataError(
            "answers are lists of spans: macro_f1 and micro_f1 need labels; use --metric mean_score"
        )
    return frozenset(str(item) for item in value)


def _f1_difference(pairs: Pairs, metric: Callable[[Array], Array]) -> stats.GroupStatistic:
    gold = [labels_of(item["gold"]) for item in pairs.a]
    answers = [[labels_of(item["prediction"]) for item in arm] for arm in (pairs.a, pairs.b)]
    names = dict.fromkeys(name for found in gold for name in sorted(found))
    columns = {name: column for column, name in enumerate(names)}
    a, b = (_counts(pairs, gold, said, columns) for said in answers)
    return stats.corpus_difference(a, b, np.bincount(pairs.groups).astype(float), metric)


def _counts(
    pairs: Pairs,
    gold: Sequence[frozenset[str]],
    said: Sequence[frozenset[str]],
    columns: dict[str, int],
) -> Array:
    """[groups, 3 * (labels + 1)] counts of gold, right and given labels; the last label is all that are no gold."""
    stray = len(columns)
    counts = np.zeros((int(pairs.groups.max()) + 1, 3, stray + 1))
    for group, right, given in zip(pairs.groups, gold, said, strict=True):
        for part, names in enumerate((right, right & given, given)):
            for name in names:
                counts[group, part, columns.get(name, stray)] += 1
    return counts.reshape(len(counts), -1)
