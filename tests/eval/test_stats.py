"""Intervals, p-values and verdicts against numbers known beforehand."""

import numpy as np
import pytest

from eval import stats
from eval.predictions import Array, Indices
from eval.stats import GroupStatistic
from eval.stats.groups import CHUNK_FLOATS
from finetune.config.eval import EvalConfig
from finetune.errors import DataError

CONFIG = EvalConfig(resamples=2000, seed=1)


def judged(difference: list[float], groups: list[int], **settings: object) -> str:
    config = EvalConfig(resamples=2000, seed=1, **settings)  # type: ignore[arg-type]
    found = stats.estimate(stats.mean(np.array(difference), np.array(groups)), config)
    return stats.verdict(found, config.min_gain, config.confidence)


def test_a_constant_difference_has_no_doubt() -> None:
    found = stats.estimate(stats.mean(np.full(24, 0.25), np.arange(24) // 2), CONFIG)
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert (found.n, found.n_groups, found.standard_error) == (24, 12, 0.0)


def test_p_does_not_promise_more_than_the_groups() -> None:
    """Eight groups that all agree: a sign-flip test has 2^-7."""
    assert 1 / 128 < stats.estimate(stats.mean(np.ones(8), np.arange(8)), CONFIG).p < 0.05
    assert stats.estimate(stats.mean(np.zeros(8), np.arange(8)), CONFIG).p == 1.0


def test_rows_that_agree_within_groups_widen_the_error() -> None:
    """Four groups of five equal rows are four observations: errors 0.1147 (naive) and 0.2887 (clustered)."""
    scores, groups = np.repeat([0.0, 1.0, 0.0, 1.0], 5), np.repeat(np.arange(4), 5)
    assert stats.clustered_error(scores, np.arange(20)) == pytest.approx(0.114708, abs=1e-6)
    assert stats.clustered_error(scores, groups) == pytest.approx(0.288675, abs=1e-6)


def test_effective_groups_of_uneven_sizes() -> None:
    assert stats.effective_groups(np.array([5.0, 5.0, 5.0])) == 3.0
    assert stats.effective_groups(np.array([8.0, 1.0, 1.0])) == pytest.approx(100 / 66)


@pytest.mark.parametrize(
    ("effective", "tail"),
    # hand: Phi(t_{.025, C-1} * sqrt(C / (C-1))); t = -2.3646 at 7, -2.0930 at 19 degrees of freedom
    [(8, 0.00573), (20, 0.01588), (1e7, 0.025)],
)
def test_the_interval_widens_as_students_t(effective: float, tail: float) -> None:
    assert stats.expanded_tail(0.025, effective) == pytest.approx(tail, abs=2e-5)


def test_verdicts() -> None:
    groups = list(range(40))
    gain, none = [1.0] * 20 + [0.0] * 20, [1.0] * 10 + [-1.0] * 10 + [0.0] * 20
    assert judged(gain, groups) == "better"
    assert judged([-value for value in gain], groups) == "worse"
    assert judged(none, groups) == "inconclusive"
    assert judged(gain, groups, min_gain=0.45) == "inconclusive"
    assert judged([1.0] * 40, [row % 7 for row in range(40)]) == "inconclusive"  # seven groups
    assert judged([1.0] * 40, [row % 8 for row in range(40)]) == "better"


def test_few_effective_groups_are_judged_by_students_t() -> None:
    """Sizes 1 to 50 in eight groups, 3.56 effective ones: t of .975 at 2.558 degrees of freedom is 3.5173."""
    sizes = np.array([1, 2, 3, 5, 9, 16, 29, 50])
    groups = np.repeat(np.arange(8), sizes)
    found = stats.estimate(stats.mean((groups % 3).astype(float), groups), EvalConfig())
    assert found.test == "cluster-robust t"
    assert (found.high - found.value) / found.unbiased_error == pytest.approx(3.5173, abs=1e-3)
    alike = stats.estimate(stats.mean(np.ones(115), groups), EvalConfig())
    assert (alike.low, alike.high, alike.p) == (1.0, 1.0, 1 / 128)
    even = stats.estimate(stats.mean(np.ones(80), np.arange(80) // 10), EvalConfig())
    assert even.test == "cluster bootstrap"


def test_a_giant_group_gives_no_verdict_and_says_so() -> None:
    """One group of 500 rows beside nine single ones count as 1.04 groups, though all agree."""
    groups = np.concatenate([np.zeros(500, dtype=np.int64), np.arange(1, 10)])
    found = stats.estimate(stats.mean(np.ones(509) + 0.01 * (groups % 2), groups), CONFIG)
    assert stats.verdict(found, 0.0, 0.95) == "inconclusive"
    assert stats.detectable(found, CONFIG) is None


def test_a_metric_without_a_value_is_refused() -> None:
    statistic = GroupStatistic(np.ones(9), lambda weights: np.full(len(weights), np.nan), None)
    with pytest.raises(DataError, match="NaN"):
        stats.estimate(statistic, CONFIG)


def test_one_group_is_refused() -> None:
    with pytest.raises(DataError, match="one group"):
        stats.estimate(stats.mean(np.array([1.0, 0.0]), np.array([0, 0])), CONFIG)


def test_p_and_interval_agree() -> None:
    """Where the 95 % interval ends at zero, p is 0.05."""
    rng = np.random.default_rng(7)
    for shift in np.linspace(0.0, 0.5, 6):
        scores = rng.normal(shift, 1.0, size=90)
        found = stats.estimate(stats.mean(scores, np.arange(90) // 3), EvalConfig(resamples=4000))
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_weights_hold_every_draw_once() -> None:
    blocks = list(stats.group_weights(CHUNK_FLOATS // 2, 5, seed=0))
    assert [block.shape[0] for block in blocks] == [2, 2, 1]
    assert all((block.sum(axis=1) == block.shape[1]).all() for block in blocks)


def test_all_wrong_is_not_certainly_wrong() -> None:
    """The two-sided rule of three: 0 of 20 groups right leaves up to 16.8 % (Clopper-Pearson)."""
    low, high = stats.share_interval(np.zeros(40), np.arange(40) // 2, CONFIG)
    assert (low, high) == (0.0, pytest.approx(0.168434, abs=1e-6))
    assert stats.share_interval(np.ones(40), np.arange(40) // 2, CONFIG) == (
        pytest.approx(0.831566, abs=1e-6),
        1.0,
    )


def null_sample(rng: np.random.Generator, sizes: Indices) -> GroupStatistic:
    """Two equally good arms whose luck changes from group to group."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    a, b = ((rng.random(len(groups)) < rng.beta(2, 2, len(sizes))[groups]).astype(float) for _ in range(2))
    difference: Array = b - a
    return stats.mean(difference, groups)


@pytest.mark.parametrize(
    "sizes", [np.full(30, 5), np.round(np.geomspace(1, 50, 30)).astype(int)], ids=["equal", "1:50"]
)
def test_equal_arms_are_rarely_told_apart(sizes: Indices) -> None:
    """Nominal 5 % of 400 samples; an interval over rows would say better or worse in about every fourth."""
    rng = np.random.default_rng(11)
    config = EvalConfig(resamples=200)
    found = [stats.estimate(null_sample(rng, sizes), config) for _ in range(400)]
    assert sum(stats.verdict(item, 0.0, 0.95) != "inconclusive" for item in found) / len(found) <= 0.08
