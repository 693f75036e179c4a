"""A metric or a difference of two as a function of whole groups, and the ways to draw or leave out groups."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy import sparse

from eval.predictions import Array, Indices

Counts = Any
"""[groups, counts], a NumPy array or a SciPy sparse one."""
CHUNK_FLOATS = 4_000_000
SPARSE = 0.05
"""Share of counts that are not zero below which a product with few zeros is the slower one."""


@dataclass(frozen=True)
class PairedScores:
    """The rows' scores of both arms, for tests of rows."""

    a: Array
    b: Array

    def binary(self) -> bool:
        """Whether every row is right or wrong, nothing between."""
        return bool(np.isin(self.a, (0.0, 1.0)).all() and np.isin(self.b, (0.0, 1.0)).all())


@dataclass(frozen=True)
class GroupStatistic:
    """A metric, or a difference of two, as a function of how often every group was drawn."""

    sizes: Array
    """Rows of each group."""
    value: Callable[[Array], Array]
    """Weights [draws, groups] to values [draws]."""
    standard_error: float | None
    """Clustered standard error where a formula has it; None: taken from the draws."""
    arms: tuple[float, float] | None = None
    """The metric of `a` and of `b`, of whose difference this is."""
    swapped: Callable[[Array], Array] | None = None
    """The difference with the arms' answers exchanged in the groups that are 1: [draws, groups] to [draws]."""
    scores: PairedScores | None = None
    without: Callable[[], Array] | None = None
    """The values without each group in turn, where there is a quicker way than groups x groups weights."""


def mean(scores: Array, groups: Indices) -> GroupStatistic:
    """The mean of row scores, or of row-wise differences of scores."""
    sizes = np.bincount(groups).astype(float)
    sums = np.bincount(groups, weights=scores)
    return GroupStatistic(
        sizes=sizes,
        value=lambda weights: (weights @ sums) / (weights @ sizes),
        standard_error=clustered_error(scores, groups),
        without=lambda: (sums.sum() - sums) / (sizes.sum() - sizes),
    )


def mean_difference(a: Array, b: Array, groups: Indices) -> GroupStatistic:
    """The mean score of `b` minus that of `a`, row by row."""
    found = mean(b - a, groups)
    sums = np.bincount(groups, weights=b - a)
    return replace(
        found,
        arms=(float(a.mean()), float(b.mean())),
        swapped=lambda chosen: (1 - 2 * chosen) @ sums / found.sizes.sum(),
        scores=PairedScores(a, b),
    )


def corpus_difference(a: Counts, b: Counts, sizes: Array, metric: Callable[[Array], Array]) -> GroupStatistic:
    """The metric of `b` minus that of `a` from each group's counts: F1, precision, all that sums determine.

    `a` and `b` are [groups, counts], `sizes` the rows of each group; `metric` takes sums [draws, counts] to
    values [draws].
    """
    sum_a, sum_b = (np.asarray(counts.sum(axis=0)).ravel() for counts in (a, b))
    drawn_a, drawn_b, drawn_gap = (_weighted_sums(counts) for counts in (a, b, b - a))

    def drawn(weights: Array) -> Array:
        return metric(drawn_b(weights)) - metric(drawn_a(weights))

    def swapped(chosen: Array) -> Array:
        moved = drawn_gap(chosen)
        return metric(sum_b - moved) - metric(sum_a + moved)

    return GroupStatistic(
        sizes=sizes,
        value=partial(_in_parts, drawn, a.shape[1]),
        standard_error=None,
        arms=(float(metric(sum_a[None])[0]), float(metric(sum_b[None])[0])),
        swapped=partial(_in_parts, swapped, a.shape[1]),
        # error, BCa and wild bootstrap each ask for it
        without=cache(lambda: metric(sum_b - _dense(b)) - metric(sum_a - _dense(a))),
    )


def _in_parts(value: Callable[[Array], Array], counts: int, rows: Array) -> Array:
    """The values of rows [draws, groups], so many at a time that their sums [draws, counts] stay small."""
    step = max(1, CHUNK_FLOATS // counts)
    return np.concatenate([value(rows[start : start + step]) for start in range(0, len(rows), step)])


def _weighted_sums(counts: Counts) -> Callable[[Array], Array]:
    """Weights [draws, groups] to sums [draws, counts]; small groups of many labels hold almost only zeros."""
    if not sparse.issparse(counts) and np.count_nonzero(counts) > SPARSE * counts.size:
        return lambda weights: np.asarray(weights @ counts)
    columns = sparse.csr_array(counts.T)
    return lambda weights: np.ascontiguousarray((columns @ weights.T).T)


def _dense(counts: Counts) -> Array:
    return np.asarray(counts.toarray() if sparse.issparse(counts) else counts)


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


def whole(statistic: GroupStatistic) -> float:
    """The statistic on the rows as they are."""
    return float(statistic.value(np.ones((1, len(statistic.sizes))))[0])


def left_out(statistic: GroupStatistic) -> Array:
    """[groups]: the statistic without each group in turn, as jackknife and BCa need it."""
    if statistic.without is not None:
        return statistic.without()
    count = len(statistic.sizes)
    block = max(1, CHUNK_FLOATS // count)
    weights = (1 - np.eye(min(block, count - start), count, k=start) for start in range(0, count, block))
    return np.concatenate([statistic.value(part) for part in weights])


def contributions(statistic: GroupStatistic) -> Array:
    """[groups]: what each group adds to the value; they sum to it.

    Exact for a mean (a group's sum over all rows); for other metrics the linear part, from leaving groups out.
    """
    share, influence = _influence(statistic)
    return np.asarray(share * whole(statistic) + influence - share * influence.sum())


def unbiased_error(statistic: GroupStatistic) -> float:
    """Standard error by leaving groups out, unbiased where rows are independent, whatever the sizes.

    CR2 of Bell & McCaffrey 2002 for a mean; with groups of one size it is clustered_error.
    """
    share, influence = _influence(statistic)
    return float(np.sqrt((influence**2 / (1 - share)).sum()))


def _influence(statistic: GroupStatistic) -> tuple[Array, Array]:
    """[groups] twice: each group's share of the rows, and what it moves the value by."""
    share = statistic.sizes / statistic.sizes.sum()
    return share, (1 - share) * (whole(statistic) - left_out(statistic))


def bootstrap(statistic: GroupStatistic, resamples: int, seed: int) -> Array:
    """The statistic on `resamples` draws of whole groups; a seed draws the same ones in every comparison."""
    count = len(statistic.sizes)
    return np.concatenate([statistic.value(weights) for weights in group_weights(count, resamples, seed)])


def group_weights(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each group was drawn: blocks [draws, groups] of bounded size, all draws together."""
    source = np.random.default_rng(seed)
    for rows in _blocks(groups, resamples):
        drawn = source.integers(0, groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def coins(groups: int, resamples: int, seed: int) -> tuple[Iterator[Array], bool]:
    """Blocks [draws, groups] of zeros and ones, and whether they are all 2^groups outcomes, each once."""
    if groups < 63 and 2**groups <= resamples:
        outcomes = np.arange(2**groups)[:, None] >> np.arange(groups)
        return iter([(outcomes & 1).astype(float)]), True
    source = np.random.default_rng(seed)
    return (
        source.integers(0, 2, size=(rows, groups)).astype(float) for rows in _blocks(groups, resamples)
    ), False


def _blocks(groups: int, resamples: int) -> Iterator[int]:
    block = max(1, CHUNK_FLOATS // groups)
    for start in range(0, resamples, block):
        yield min(block, resamples - start)
