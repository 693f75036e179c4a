"""Our statistics beside those of scipy, statsmodels, scikit-learn and evalsig, where they compute the same thing.

Called by scripts/check_stats.py. evalsig is compared where it is installed (`pip install evalsig`); else a line says
that it is left out.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from eval import stats
from eval.metrics.label_counts import macro_f1_of_counts
from finetune.config.eval import EvalConfig

EXACT = 1e-9
CONFIG = EvalConfig()
SOURCE = np.random.default_rng(12)
GROUPS = np.repeat(np.arange(24), 5)
A = (SOURCE.random(120) < 0.55).astype(float)
B = np.where(SOURCE.random(120) < 0.2, 1 - A, A)
P_VALUES = list(SOURCE.random(15) ** 3)


@dataclass(frozen=True)
class Agreement:
    """One number of ours and one of another library's, and how far apart they may be."""

    name: str
    ours: float
    theirs: float
    tolerance: float = EXACT


def disagreements(tell: Callable[[str], None]) -> int:
    """Tell every pair of numbers; how many differ by more than they may."""
    wrong = 0
    pairs = [*_scipy(), *_statsmodels(), *_sklearn()]
    if importlib.util.find_spec("evalsig") is None:
        tell("evalsig is not installed and left out")
    else:
        pairs += _evalsig()
    for item in pairs:
        gap = abs(item.ours - item.theirs)
        wrong += gap > item.tolerance
        said = "agree" if gap <= item.tolerance else "DIFFER"
        tell(f"{item.name:58} {item.ours:.12g} {item.theirs:.12g}  {said} to {item.tolerance:.0e}")
    return wrong


def _scipy() -> Iterator[Agreement]:
    rows = stats.mean_difference(A, B, np.arange(120))
    error = rows.standard_error or 0.0
    yield Agreement(
        "scipy: paired t, p",
        stats.cluster_t(stats.whole(rows), error, 120.0),
        scipy_stats.ttest_rel(B, A).pvalue,
    )
    few = stats.mean_difference(A[:11], B[:11] + 0.1, np.arange(11))
    permuted = scipy_stats.permutation_test(
        (B[:11] + 0.1, A[:11]), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples"
    )
    yield Agreement(
        "scipy: exact randomisation of pairs, p", stats.swap_test(few, 2**11, 0) or 0.0, permuted.pvalue
    )
    difference = B - A + np.linspace(0, 0.3, 120)
    drawn = scipy_stats.bootstrap((difference,), np.mean, method="BCa", n_resamples=4000, rng=SOURCE)
    ends = stats.bca_interval(
        drawn.bootstrap_distribution,
        float(difference.mean()),
        stats.left_out(stats.mean(difference, np.arange(120))),
        0.95,
    )
    for name, ours, theirs in zip(("low", "high"), ends, drawn.confidence_interval, strict=True):
        yield Agreement(f"scipy: BCa {name} end on the same draws", ours, float(theirs))


def _statsmodels() -> Iterator[Agreement]:
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.power import TTestPower

    counts = stats.mcnemar(stats.PairedScores(A, B))
    yield Agreement(
        "statsmodels: exact McNemar, p",
        counts.exact,
        mcnemar([[0, counts.broke], [counts.fixed, 0]], exact=True).pvalue,
    )
    difference = stats.mean_difference(A, B, GROUPS)
    fit = OLS(B - A, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": GROUPS}, use_t=True)
    error = difference.standard_error or 0.0
    yield Agreement("statsmodels: clustered standard error", error, float(fit.bse[0]))
    ours = stats.cluster_t(stats.whole(difference), error, 24.0)
    yield Agreement("statsmodels: clustered t, p", ours, float(fit.pvalues[0]))
    for name, method, adjust in (("Holm", "holm", stats.holm), ("BH", "fdr_bh", stats.benjamini_hochberg)):
        theirs = multipletests(P_VALUES, method=method)[1]
        yield Agreement(
            f"statsmodels: {name}, sum of 15 adjusted p", sum(adjust(P_VALUES)), float(theirs.sum())
        )
    planned = stats.plan_detectable(np.ones(60), stats.Disagreement(1.0, 0.0), CONFIG)
    theirs = TTestPower().solve_power(nobs=60, alpha=0.05, power=0.8)
    yield Agreement(
        "statsmodels: effect at power 0.8 (theirs counts both tails)", planned, float(theirs), 1e-5
    )


def _sklearn() -> Iterator[Agreement]:
    from sklearn.metrics import f1_score

    gold, said = SOURCE.integers(0, 4, 90), SOURCE.integers(0, 5, 90)
    counts = [
        [float((values == name).sum()) for name in range(4)]
        for values in (gold, np.where(gold == said, gold, -1), said)
    ]
    theirs = f1_score(gold, said, labels=range(4), average="macro")
    yield Agreement(
        "scikit-learn: macro-F1 from counts", macro_f1_of_counts(np.array([sum(counts, [])]))[0], theirs
    )


def _evalsig() -> Iterator[Agreement]:
    import evalsig
    from evalsig.inference.mcnemar import mcnemar_test
    from evalsig.inference.mde import estimate_icc
    from evalsig.inference.paired import paired_t_test

    counts = stats.mcnemar(stats.PairedScores(A, B))
    yield Agreement(
        "evalsig: exact McNemar, p", counts.exact, mcnemar_test(A, B, exact_threshold=10**6).p_value
    )
    rows = stats.mean_difference(A, B, np.arange(120))
    ours = stats.cluster_t(stats.whole(rows), rows.standard_error or 0.0, 120.0)
    yield Agreement("evalsig: paired t, p", ours, paired_t_test(A, B).p_value)
    yield Agreement(
        "evalsig: intraclass correlation", stats.disagreement(B - A, GROUPS).icc, estimate_icc(B - A, GROUPS)
    )
    planned = stats.plan_detectable(np.full(10**5, 5.0), stats.Disagreement(0.2, 0.1), CONFIG)
    theirs = evalsig.mde(np.sqrt(0.2), 5 * 10**5, n_clusters=10**5, icc=0.1).mde
    yield Agreement("evalsig: detectable effect (theirs by normal quantiles)", planned / theirs, 1.0, 1e-4)
    for name, adjust, other in (
        ("Holm", stats.holm, evalsig.holm),
        ("BH", stats.benjamini_hochberg, evalsig.benjamini_hochberg),
    ):
        adjusted = other(np.array(P_VALUES)).p_adjusted
        yield Agreement(
            f"evalsig: {name}, sum of 15 adjusted p", sum(adjust(P_VALUES)), float(adjusted.sum())
        )
    yield from _evalsig_bootstrap()


def _evalsig_bootstrap() -> Iterator[Agreement]:
    from evalsig.inference.cluster_bootstrap import cluster_bootstrap_ci

    a, b = (
        A + SOURCE.random(120),
        B + SOURCE.random(120),
    )  # no ties, or an end jumps from one value to the next
    draws = stats.bootstrap(stats.mean_difference(a, b, GROUPS), 20_000, 1)
    ends = cluster_bootstrap_ci(a, b, GROUPS, n_resamples=20_000, rng=2).ci
    # an end at 2.5 % of n draws errs by sqrt(.025 * .975 / n) / density: 0.05 standard errors of 20,000, twice, times 4
    allowed = 0.08 * float(draws.std())
    for name, level, end in (("low", 0.025, ends[0]), ("high", 0.975, ends[1])):
        yield Agreement(
            f"evalsig: cluster bootstrap, {name} end, other draws",
            float(np.quantile(draws, level)),
            end,
            allowed,
        )
