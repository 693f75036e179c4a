"""Textbook tests of a paired difference: beside the verdict's own, or for it where they are exact."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from eval.predictions import Array
from eval.stats.groups import GroupStatistic, PairedScores, coins, contributions, whole

ROUNDING = 1e-12
"""Values this close are one: sums in another order must not decide a count."""


@dataclass(frozen=True)
class McNemar:
    """Rows that only one arm has right, and the two-sided p-values of that split being even."""

    fixed: int
    """`b` right, `a` wrong."""
    broke: int
    """`a` right, `b` wrong."""
    exact: float
    mid_p: float


def mcnemar(scores: PairedScores) -> McNemar:
    """McNemar's exact test and its mid-p form (Fagerland et al. 2013, BMC Med Res Methodol 13:91).

    Both take rows for independent: valid where each group has one row.
    """
    fixed = int((scores.b > scores.a).sum())
    broke = int((scores.b < scores.a).sum())
    if fixed == broke:
        return McNemar(fixed, broke, 1.0, 1.0)  # the exact test's two tails overlap there, the mid-p's meet
    count, fewer = fixed + broke, min(fixed, broke)
    exact = float(stats.binomtest(fewer, count, 0.5).pvalue)
    return McNemar(fixed, broke, exact, exact - float(stats.binom.pmf(fewer, count, 0.5)))


def score_interval(scores: PairedScores, confidence: float) -> tuple[float, float]:
    """Tango's score interval of the difference of two shares on the same rows (1998, Stat. Med. 17:891).

    It takes rows for independent. Where no row differs it is not a point, as that of resampled rows is, but reaches
    z^2 / (n + z^2) to both sides: a loss that so few rows could have missed.
    """
    found, rows = mcnemar(scores), len(scores.a)
    quantile = float(special.ndtri((1 + confidence) / 2))

    def beyond(fixed: int, broke: int) -> float:
        """The largest difference that `fixed - broke` does not contradict."""
        gap = (fixed - broke) / rows
        if gap == 1:
            return 1.0
        return float(
            optimize.brentq(
                lambda at: _tango(fixed, broke, rows, at) + quantile, gap, 1 - ROUNDING, xtol=ROUNDING
            )
        )

    return -beyond(found.broke, found.fixed), beyond(found.fixed, found.broke)


def _tango(fixed: int, broke: int, rows: int, at: float) -> float:
    """The score statistic of the difference being `at`, with the most likely share of broken rows under it."""
    linear = -fixed - broke + (2 * rows - fixed + broke) * at
    root = np.sqrt(max(linear**2 + 8 * rows * broke * at * (1 - at), 0.0))
    share = (root - linear) / (4 * rows)
    variance = rows * (2 * share + at * (1 - at))
    gap = fixed - broke - rows * at
    return 0.0 if variance <= 0 and abs(gap) < ROUNDING else gap / np.sqrt(max(variance, ROUNDING**2))


def cluster_t(value: float, standard_error: float, effective: float) -> float:
    """Two-sided p of the cluster-robust t-test with (effective groups - 1) degrees of freedom."""
    if standard_error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * special.stdtr(max(effective - 1, 1.0), -abs(value) / standard_error))


def wild_bootstrap(statistic: GroupStatistic, resamples: int, seed: int) -> float:
    """Two-sided p of the wild cluster bootstrap-t with the null imposed and Rademacher signs.

    Cameron, Gelbach & Miller 2008 (Rev. Econ. Stat. 90:414); all 2^groups signs where that is no more than
    `resamples`. Metrics that are no means are taken by their linear part.
    """
    parts = contributions(statistic)
    share = statistic.sizes / statistic.sizes.sum()
    observed = abs(_studentised(parts[None], share)[0])
    blocks, complete = coins(len(parts), resamples, seed)
    found = np.concatenate([_studentised((1 - 2 * chosen) * parts, share) for chosen in blocks])
    return _tail_share(np.abs(found), observed, complete)


def swap_test(statistic: GroupStatistic, resamples: int, seed: int) -> float | None:
    """Two-sided p of approximate randomisation: the arms' answers exchanged in whole groups, at random.

    Noreen 1989; exact where all 2^groups exchanges are no more than `resamples`. None where the statistic
    does not know its value with answers exchanged.
    """
    if statistic.swapped is None:
        return None
    blocks, complete = coins(len(statistic.sizes), resamples, seed)
    found = np.concatenate([statistic.swapped(chosen) for chosen in blocks])
    return _tail_share(np.abs(found), abs(whole(statistic)), complete)


def bca_interval(draws: Array, value: float, without: Array, confidence: float) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated interval of bootstrap `draws` [draws].

    `without` are the values without each group (Efron & Tibshirani 1993, chapter 14).
    """
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    bias = special.ndtri(below)
    gaps = without.mean() - without
    spread = float((gaps**2).sum())
    if spread == 0 or not np.isfinite(bias):
        return float(draws.min()), float(draws.max())
    acceleration = (gaps**3).sum() / (6 * spread**1.5)
    normal = bias + special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    low, high = np.quantile(draws, special.ndtr(bias + normal / (1 - acceleration * normal)))
    return float(low), float(high)


def _studentised(parts: Array, share: Array) -> Array:
    """t of rows [draws, groups] of group contributions."""
    values = parts.sum(axis=1)
    groups = parts.shape[1]
    spread = ((parts - values[:, None] * share) ** 2).sum(axis=1)
    errors = np.sqrt(groups / (groups - 1) * np.where(spread < ROUNDING**2, 0.0, spread))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == 0, 0.0, values / errors)


def _tail_share(found: Array, observed: float, complete: bool) -> float:
    """Share of draws at least as far out; the sample itself is one of them, so it is never zero."""
    beyond = (
        int((found >= observed - ROUNDING * max(1.0, abs(observed))).sum())
        if np.isfinite(observed)
        else int(np.isinf(found).sum())
    )
    return beyond / len(found) if complete else (beyond + 1) / (len(found) + 1)
