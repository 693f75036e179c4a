"""Paired statistics clustered by group: intervals, p-values, detectable effects, verdicts.

The unit is the group (a document with its near duplicates), never the row: rows of one group agree
with each other, and an interval that ignores it is too narrow (Miller, arXiv 2411.00640).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from eval.predictions import Array, Indices
from finetune.config.eval import EvalConfig
from finetune.errors import DataError

BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
POWER = 0.8
MIN_GROUPS = 8
"""Fewer groups never give a verdict: with 5, even a sign-flip test in which all agree has p = 0.06."""
CHUNK_FLOATS = 4_000_000


@dataclass(frozen=True)
class GroupStatistic:
    """A metric, or a difference of two, as a function of how often every group was drawn."""

    sizes: Array
    """Rows of each group."""
    value: Callable[[Array], Array]
    """Weights [draws, groups] to values [draws]."""
    standard_error: float | None
    """Clustered standard error where a formula has it; None: taken from the draws."""


@dataclass(frozen=True)
class Estimate:
    """A value with its clustered interval; `p` is two-sided against zero."""

    value: float
    low: float
    high: float
    p: float
    standard_error: float
    n: int
    n_groups: int
    effective_groups: float


def mean(scores: Array, groups: Indices) -> GroupStatistic:
    """The mean of row scores, or of row-wise differences of scores."""
    sizes = np.bincount(groups).astype(float)
    sums = np.bincount(groups, weights=scores)
    return GroupStatistic(
        sizes, lambda weights: (weights @ sums) / (weights @ sizes), clustered_error(scores, groups)
    )


def clustered_error(scores: Array, groups: Indices) -> float:
    """Standard error of the mean of rows in groups, with the C/(C-1) correction (Miller, appendix A)."""
    centred = np.bincount(groups, weights=scores - scores.mean())
    count = len(centred)
    if count < 2:
        return float("nan")
    return float(np.sqrt(count / (count - 1) * (centred**2).sum()) / len(scores))


def effective_groups(sizes: Array) -> float:
    """(sum n)^2 / sum n^2: the number of equal groups that would carry as much (Kish)."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def estimate(statistic: GroupStatistic, config: EvalConfig) -> Estimate:
    """Value, interval and p by the bootstrap of whole groups.

    The interval is the percentile interval, expanded so that its quantiles are those of Student's t with
    (effective groups - 1) degrees of freedom (Hesterberg 2015, The American Statistician 69:371): with many
    groups it is the plain percentile interval, with few or uneven ones it is as wide as t demands. `p` is
    the level at which that interval just touches zero; it cannot fall below what the number of draws resolves.
    Raises DataError where all rows are in one group.
    """
    count = len(statistic.sizes)
    if count < 2:
        raise DataError(
            "all test rows are in one group, so nothing can be said about other groups; enlarge the test set"
        )
    draws = bootstrap(statistic, config.resamples, config.seed)
    error = statistic.standard_error
    if error is None:
        error = float(draws.std(ddof=1) * np.sqrt(count / (count - 1))) if len(draws) > 1 else float("nan")
    effective = effective_groups(statistic.sizes)
    tail = expanded_tail((1 - config.confidence) / 2, effective)
    low, high = np.quantile(draws, [tail, 1 - tail])
    value = float(statistic.value(np.ones((1, count)))[0])
    return Estimate(
        value=value,
        low=float(low),
        high=float(high),
        p=_p_value(draws, effective),
        standard_error=error,
        n=int(statistic.sizes.sum()),
        n_groups=count,
        effective_groups=effective,
    )


def share_interval(scores: Array, groups: Indices, config: EvalConfig) -> tuple[float, float]:
    """The interval of one arm's mean score between 0 and 1.

    Where all rows are wrong, or all right, no draw differs and the bootstrap sees no doubt; there it is the
    exact binomial bound on as many trials as there are effective groups (the rule of three, two-sided).
    """
    found = estimate(mean(scores, groups), config)
    doubt = 1 - float(((1 - config.confidence) / 2) ** (1 / found.effective_groups))
    if not scores.any():
        return 0.0, doubt
    return (1 - doubt, 1.0) if (scores == 1).all() else (found.low, found.high)


def bootstrap(statistic: GroupStatistic, resamples: int, seed: int) -> Array:
    """The statistic on `resamples` draws of whole groups; a seed draws the same ones in every comparison."""
    count = len(statistic.sizes)
    return np.concatenate([statistic.value(weights) for weights in group_weights(count, resamples, seed)])


def group_weights(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each group was drawn: blocks [draws, groups] of bounded size, all draws together."""
    source = np.random.default_rng(seed)
    block = max(1, CHUNK_FLOATS // groups)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = source.integers(0, groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def expanded_tail(tail: float, effective: float) -> float:
    """The percentile that gives a bootstrap tail the width of Student's t (Hesterberg 2015)."""
    freedom = _freedom(effective)
    return float(special.ndtr(special.stdtrit(freedom, tail) * np.sqrt((freedom + 1) / freedom)))


def detectable(found: Estimate, config: EvalConfig) -> float:
    """The true difference that comes out `better` in 80 % of evaluations of this size."""
    freedom = _freedom(found.effective_groups)
    quantiles = special.stdtrit(freedom, np.array([(1 + config.confidence) / 2, POWER]))
    return config.min_gain + float(quantiles.sum()) * found.standard_error


def verdict(found: Estimate, min_gain: float) -> str:
    """`better` where the whole interval lies above `min_gain`, `worse` where below 0, else `inconclusive`."""
    if found.n_groups < MIN_GROUPS:
        return INCONCLUSIVE
    if found.low > min_gain:
        return BETTER
    return WORSE if found.high < 0 else INCONCLUSIVE


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that stay valid when all of them are read together (Holm 1979), in the given order."""
    count, highest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=lambda item: p_values[item])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _p_value(draws: Array, effective: float) -> float:
    """The two-sided level at which the expanded interval touches zero: the inverse of expanded_tail."""
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    tail = (beyond + 1) / (len(draws) + 1)  # + 1: the sample itself is one of the draws, so p is never zero
    freedom = _freedom(effective)
    quantile = special.ndtri(min(tail, 0.5)) * np.sqrt(freedom / (freedom + 1))
    return float(2 * special.stdtr(freedom, quantile))


def _freedom(effective: float) -> float:
    return max(effective - 1, 1.0)
