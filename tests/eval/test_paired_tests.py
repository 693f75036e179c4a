"""Textbook tests against published examples and the libraries that have them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar

from eval import stats
from eval.metrics.label_counts import macro_f1_of_counts
from eval.predictions import Array
from eval.stats.groups import contributions


def split(fixed: int, broke: int, both: int = 0, neither: int = 0) -> stats.PairedScores:
    """Paired right and wrong answers with these counts."""
    a = [0.0] * fixed + [1.0] * broke + [1.0] * both + [0.0] * neither
    b = [1.0] * fixed + [0.0] * broke + [1.0] * both + [0.0] * neither
    return stats.PairedScores(np.array(a), np.array(b))


def test_mcnemar_of_published_tables() -> None:
    """Airway hyper-responsiveness before and after transplantation (Fagerland et al. 2013, table 1): 1 against 7."""
    found = stats.mcnemar(split(1, 7, both=1, neither=12))
    assert (found.fixed, found.broke) == (1, 7)
    assert found.exact == pytest.approx(18 / 256)  # 0.0703
    assert found.mid_p == pytest.approx(18 / 256 - 8 / 256)  # 0.0391


def test_mcnemar_of_agreement_is_one() -> None:
    for even in (0, 5):
        found = stats.mcnemar(split(even, even, both=3))
        assert (found.exact, found.mid_p) == (1.0, 1.0)


@pytest.mark.parametrize(("fixed", "broke"), [(0, 6), (12, 5), (59, 6), (101, 121)])
def test_mcnemar_as_statsmodels(fixed: int, broke: int) -> None:
    theirs = their_mcnemar([[9, broke], [fixed, 4]], exact=True).pvalue
    assert stats.mcnemar(split(fixed, broke)).exact == pytest.approx(theirs, abs=1e-12)


def test_clustered_t_is_the_paired_t_where_each_row_is_a_group() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(25), rng.random(25) + 0.2
    difference = stats.mean_difference(a, b, np.arange(25))
    assert difference.standard_error is not None
    ours = stats.cluster_t(float((b - a).mean()), difference.standard_error, 25.0)
    assert ours == pytest.approx(scipy_stats.ttest_rel(b, a).pvalue, abs=1e-12)
    assert stats.unbiased_error(difference) == pytest.approx(difference.standard_error, abs=1e-12)


def test_the_unbiased_error_by_hand() -> None:
    """Groups of 1 and 3 rows with sums 1 and 0: mean 1/4, parts 3/16 each way, over their shares' complements.

    sqrt((3/16)^2 / (3/4) + (3/16)^2 / (1/4)) = 3/16 * sqrt(16/3).
    """
    found = stats.mean(np.array([1.0, 0.0, 0.0, 0.0]), np.array([0, 1, 1, 1]))
    assert stats.unbiased_error(found) == pytest.approx(3 / 16 * np.sqrt(16 / 3))


def test_contributions_are_the_groups_sums_and_add_up() -> None:
    found = stats.mean(np.array([1.0, 0.0, 0.5, 1.0, 0.0]), np.array([0, 0, 1, 1, 2]))
    assert contributions(found) == pytest.approx([0.2, 0.3, 0.0])
    counts = np.random.default_rng(2).integers(0, 9, (2, 12, 9)).astype(float)
    corpus = stats.corpus_difference(counts[0], counts[1], np.ones(12), macro_f1_of_counts)
    assert contributions(corpus).sum() == pytest.approx(stats.whole(corpus), abs=1e-12)


def test_leaving_groups_out_is_the_same_by_weights() -> None:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 9, (2, 12, 9)).astype(float)
    groups = np.repeat(np.arange(7), [1, 2, 3, 9, 1, 1, 4])
    for statistic in (
        stats.mean_difference(rng.random(21), rng.random(21), groups),
        stats.corpus_difference(counts[0], counts[1], np.ones(12), macro_f1_of_counts),
    ):
        by_weights = stats.left_out(replace(statistic, without=None))
        assert stats.left_out(statistic) == pytest.approx(by_weights, abs=1e-12)
        assert np.ptp(by_weights) > 0.01


def test_single_rows_of_many_labels_are_summed_alike() -> None:
    """200 groups of one row, 40 labels: three counts of 120 are not zero."""
    rng = np.random.default_rng(6)
    gold, said = rng.integers(0, 40, 200), rng.integers(0, 40, (2, 200))
    ones = np.eye(40)
    a, b = (
        np.concatenate([ones[gold], ones[gold] * (gold == answers)[:, None], ones[answers]], axis=1)
        for answers in (np.where(rng.random(200) < 0.5, gold, said[0]), said[1])
    )
    weights = rng.integers(0, 3, (9, 200)).astype(float)
    found = stats.corpus_difference(a, b, np.ones(200), macro_f1_of_counts)
    by_hand = macro_f1_of_counts(weights @ b) - macro_f1_of_counts(weights @ a)
    assert found.value(weights) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand.max() < -0.1
    thin = stats.corpus_difference(sparse.csr_array(a), sparse.csr_array(b), np.ones(200), macro_f1_of_counts)
    assert thin.value(weights) == pytest.approx(by_hand, abs=1e-12)
    assert stats.left_out(thin) == pytest.approx(stats.left_out(replace(found, without=None)), abs=1e-12)
    assert thin.swapped is not None
    assert thin.swapped(np.ones((1, 200))) == pytest.approx(-stats.whole(found), abs=1e-12)


def test_wild_bootstrap_of_few_groups_is_complete() -> None:
    """Six groups, all positive and unequal: only the sample and its mirror are as far out, 2 of 64."""
    found = stats.mean(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.arange(6))
    assert stats.wild_bootstrap(found, 64, seed=0) == 2 / 64
    assert stats.wild_bootstrap(stats.mean(np.zeros(6), np.arange(6)), 64, seed=0) == 1.0
    assert stats.wild_bootstrap(stats.mean(np.ones(6), np.arange(6)), 64, seed=0) == 2 / 64


def test_swapping_is_scipys_permutation_of_pairs() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(9), rng.random(9) + 0.15
    theirs = scipy_stats.permutation_test(
        (b, a), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True
    )
    ours = stats.swap_test(stats.mean_difference(a, b, np.arange(9)), 512, seed=0)
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12)


def test_swapping_whole_groups_by_hand() -> None:
    """Two arms that answer three rows of one group and two of another: of four exchanges two are as far out."""
    difference = stats.mean_difference(np.zeros(5), np.ones(5), np.array([0, 0, 0, 1, 1]))
    assert stats.swap_test(difference, 4, seed=0) == 0.5
    assert difference.swapped is not None
    assert difference.swapped(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])) == pytest.approx(
        [1.0, -0.2, -1.0]
    )
    assert stats.swap_test(stats.mean(np.ones(5), np.array([0, 0, 0, 1, 1])), 4, seed=0) is None


def test_swapping_a_corpus_metric_exchanges_the_arms() -> None:
    counts = np.random.default_rng(2).integers(0, 9, (2, 12, 9)).astype(float)
    there, back = (
        stats.corpus_difference(a, b, np.ones(12), macro_f1_of_counts)
        for a, b in ((counts[0], counts[1]), (counts[1], counts[0]))
    )
    assert there.swapped is not None
    assert there.swapped(np.ones((1, 12)))[0] == pytest.approx(stats.whole(back), abs=1e-12)
    mixed = (
        np.where(np.arange(12)[:, None] < 5, counts[1], counts[0]),
        np.where(np.arange(12)[:, None] < 5, counts[0], counts[1]),
    )
    by_hand = stats.corpus_difference(*mixed, np.ones(12), macro_f1_of_counts)
    first_five = (np.arange(12) < 5).astype(float)[None]
    assert there.swapped(first_five)[0] == pytest.approx(stats.whole(by_hand), abs=1e-12)


def test_bca_is_scipys_on_the_same_draws() -> None:
    scores: Array = np.random.default_rng(8).exponential(1.0, 30)
    theirs = scipy_stats.bootstrap(
        (scores,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(1)
    )
    statistic = stats.mean(scores, np.arange(30))
    low, high = stats.bca_interval(
        theirs.bootstrap_distribution, float(scores.mean()), stats.left_out(statistic), 0.95
    )
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-9)
    assert stats.bca_interval(np.ones(10), 1.0, np.ones(10), 0.95) == (1.0, 1.0)
