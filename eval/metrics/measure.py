"""What a metric is: counts of each group and a formula over their sums, so that no draw ever touches a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import stats
from eval.predictions import Array, Indices, Pairs, Prediction, group_numbers

Counts = Any
"""[groups, counts], a NumPy array or a SciPy sparse one: most groups know few of many labels."""
Formula = Callable[[Array], Array]
"""Sums [draws, counts] to values [draws]."""


@dataclass(frozen=True)
class Scope:
    """What a metric may know beside an arm's predictions."""

    groups: Indices
    """Each prediction's group as a number from 0."""
    vocabulary: frozenset[str] = frozenset()
    """The known labels."""
    beside: Sequence[Prediction] = ()
    """The other arm of a comparison: its columns must mean the same."""


@dataclass(frozen=True)
class ArmStatistic:
    """One arm's metric: its counts, the formula over their sums, and the rows' scores where it is their mean."""

    counts: Counts
    formula: Formula
    scores: Array | None = None


@dataclass(frozen=True)
class Measure:
    """A metric by what it averages over, in words that a report prints."""

    averages: str
    statistic: Callable[[Sequence[Prediction], Scope], ArmStatistic | None]
    """None where the answers do not hold what the metric needs."""


def mean(scores: Array, groups: Indices) -> ArmStatistic:
    """The mean of the rows' scores."""
    return ratio(scores, np.ones(len(scores)), groups, scores)


def ratio(top: Array, bottom: Array, groups: Indices, scores: Array | None = None) -> ArmStatistic:
    """A sum over rows divided by another; 0 where a draw has nothing to divide by."""
    counts = np.stack([np.bincount(groups, weights=part) for part in (top, bottom)], axis=1)
    return ArmStatistic(counts, lambda sums: divided(sums[:, 0], sums[:, 1]), scores)


def divided(top: Array, bottom: Array) -> Array:
    """`top / bottom`, 0 where the divisor is."""
    found: Array = np.divide(top, bottom, out=np.zeros_like(top, dtype=float), where=bottom != 0)
    return found


def value(measure: Measure, predictions: Sequence[Prediction], vocabulary: frozenset[str]) -> float | None:
    """The metric of one arm; None where it has none."""
    found = measure.statistic(predictions, Scope(group_numbers(predictions), vocabulary))
    if found is None:
        return None
    return float(found.formula(np.ones((1, found.counts.shape[0])) @ found.counts)[0])


def difference(measure: Measure, pairs: Pairs) -> stats.GroupStatistic | None:
    """The metric of `b` minus that of `a`; None where one of the arms has none."""
    a = measure.statistic(pairs.a, Scope(pairs.groups, beside=pairs.b))
    b = measure.statistic(pairs.b, Scope(pairs.groups, beside=pairs.a))
    if a is None or b is None:
        return None
    if a.scores is not None and b.scores is not None:
        return stats.mean_difference(a.scores, b.scores, pairs.groups)
    sizes = np.bincount(pairs.groups).astype(float)
    return stats.corpus_difference(a.counts, b.counts, sizes, b.formula)
