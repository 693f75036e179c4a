"""Detectable effects, adjusted p-values and margins against worked examples."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special
from statsmodels.stats.multitest import multipletests

from eval import stats
from finetune.config.eval import EvalConfig

FOUND = stats.Estimate(
    value=0.05,
    low=0.01,
    high=0.09,
    p=0.01,
    standard_error=0.02,
    unbiased_error=0.02,
    n=10**6,
    n_groups=10**6,
    effective_groups=1e6,
)


def test_detectable_effect_of_many_groups() -> None:
    """Half the interval, 0.04, and 0.8416 standard errors beyond the least gain."""
    assert stats.detectable(FOUND, EvalConfig(min_gain=0.05)) == pytest.approx(0.106832, abs=1e-5)


def test_detectable_effect_of_few_groups() -> None:
    """Eight groups: (0.04 + 0.8960 * 0.02) / 0.9650, with t of 0.8 at 7 degrees of freedom and c4 of eight values."""
    few = replace(FOUND, n_groups=8, effective_groups=8.0)
    assert stats.detectable(few, EvalConfig()) == pytest.approx(0.060020, abs=1e-5)


def test_few_or_uneven_groups_detect_nothing() -> None:
    assert stats.detectable(replace(FOUND, n_groups=7, effective_groups=7.0), EvalConfig()) is None
    assert stats.detectable(replace(FOUND, n_groups=40, effective_groups=2.0), EvalConfig()) is None
    assert stats.detectable(replace(FOUND, unbiased_error=0.0), EvalConfig()) is None


@pytest.mark.parametrize(("rows", "points"), [(200, 8.1), (500, 5.1), (1000, 3.6), (3080, 2.1)])
def test_planned_effect_of_independent_rows(rows: int, points: float) -> None:
    """Arms that disagree on 16.7 % of the rows: (1.96 + 0.84) sqrt(0.167 / n)."""
    found = stats.plan_detectable(np.ones(rows), stats.Disagreement(0.167, 0.0), EvalConfig())
    assert 100 * found == pytest.approx(points, abs=0.06)


def test_planned_effect_of_clusters() -> None:
    """61 documents of 17 rows that correlate by 0.04: the design effect is 1 + 16 * 0.04 = 1.64."""
    rows, groups = stats.Disagreement(0.167, 0.0), stats.Disagreement(0.167, 0.04)
    alone, together = (
        stats.plan_detectable(np.full(61, 17.0), item, EvalConfig()) for item in (rows, groups)
    )
    assert together / alone == pytest.approx(np.sqrt(1.64))
    power = 1 - special.nctdtr(60, alone / np.sqrt(0.167 / 1037), special.stdtrit(60, 0.975))
    assert power == pytest.approx(0.8, abs=1e-6)


def test_disagreement_by_hand() -> None:
    """Two groups (1, 1), (0, -1): mean squares 9/4 between and 1/4 within, so (9/4 - 1/4) / (9/4 + 1/4) = 0.8."""
    found = stats.disagreement(np.array([1.0, 1.0, 0.0, -1.0]), np.array([0, 0, 1, 1]))
    assert found.icc == pytest.approx(0.8)
    assert found.variance == pytest.approx(11 / 12)
    assert stats.disagreement(np.array([1.0, 0.0]), np.array([0, 1])).icc == 0.0


def test_verdict_needs_interval_and_p() -> None:
    assert stats.verdict(FOUND, 0.0, 0.95) == "better"
    assert stats.verdict(FOUND, 0.02, 0.95) == "inconclusive"
    assert stats.verdict(FOUND, 0.0, 0.95, p=0.06) == "inconclusive"  # once adjusted
    assert stats.verdict(replace(FOUND, low=-0.09, high=-0.01), 0.0, 0.95) == "worse"
    assert stats.verdict(replace(FOUND, n_groups=7), 0.0, 0.95) == "inconclusive"


def test_not_worse_is_not_the_same_as_not_inferior() -> None:
    wide = replace(FOUND, low=-0.03, high=0.05)
    assert stats.verdict(wide, 0.0, 0.95) == "inconclusive"
    assert not stats.not_inferior(wide, 0.02)
    assert stats.not_inferior(wide, 0.04)
    assert not stats.not_inferior(replace(wide, n_groups=3), 0.04)


def test_four_wins_of_a_hundred_rows_are_no_proof() -> None:
    """The interval of 4 against 0 excludes zero, the exact test has 0.125 and its mid-p 0.0625."""
    b = np.zeros(100)
    b[:4] = 1
    found = stats.estimate(stats.mean_difference(np.zeros(100), b, np.arange(100)), EvalConfig())
    assert found.low > 0
    assert (found.test, found.p) == ("McNemar mid-p", pytest.approx(0.0625))
    assert stats.verdict(found, 0.0, 0.95) == "inconclusive"


def test_holm_by_hand_and_as_statsmodels() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    p_values = list(np.random.default_rng(0).random(20) ** 3)
    assert stats.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_false_discovery_rate_of_the_published_example() -> None:
    """Benjamini & Hochberg 1995, section 3.2: of 15 p-values four are found at 0.05, Bonferroni finds three."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    p_values += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    adjusted = stats.benjamini_hochberg(p_values)
    assert sum(item <= 0.05 for item in adjusted) == 4
    assert adjusted[0] == pytest.approx(0.0015)
    assert adjusted == pytest.approx(list(multipletests(p_values, method="fdr_bh")[1]), abs=1e-12)
    assert stats.benjamini_hochberg([]) == []


def test_seeds_stand_apart() -> None:
    found = stats.seed_spread([0.1, 0.2, 0.3])
    assert (found.count, found.mean, found.standard_deviation) == (3, pytest.approx(0.2), pytest.approx(0.1))
