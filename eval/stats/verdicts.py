"""What an estimate allows to say, and which difference a test set can show, before and after."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from eval.predictions import Array, Indices
from eval.stats.groups import effective_groups
from eval.stats.interval import Estimate, degrees_of_freedom
from finetune.config.eval import EvalConfig

BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
POWER = 0.8
MIN_GROUPS = 8
"""Fewer groups never give a verdict: with 5, even a sign-flip test in which all agree has p = 0.06."""
MIN_EFFECTIVE_GROUPS = 3.5
"""Below, a group or two are all there is; check_stats.py has counted errors down to 3.56 (8 groups, sizes 1 to 50)."""


@dataclass(frozen=True)
class Disagreement:
    """How two arms differ row by row; what a test set of other size would resolve follows from it."""

    variance: float
    """Of the row-wise difference; for right and wrong answers about the share of rows on which arms differ."""
    icc: float
    """Intraclass correlation of the difference within groups, between 0 and 1."""


EXPECTED = Disagreement(variance=0.2, icc=0.05)
"""For planning, where nothing is known yet. Two real prediction files differed on 16.7 % of their rows; 17 hypotheses a
contract of ContractNLI raise the standard error 1.28 times, which is an icc of 0.04."""


def verdict(found: Estimate, min_gain: float, confidence: float, p: float | None = None) -> str:
    """`better` where the whole interval lies above `min_gain`, `worse` where below 0, else `inconclusive`.

    `p`, the estimate's own or one adjusted for others read beside it, must be below 1 - confidence as well.
    """
    p = found.p if p is None else p
    if not enough(found) or p >= 1 - confidence:
        return INCONCLUSIVE
    if found.low > min_gain:
        return BETTER
    return WORSE if found.high < 0 else INCONCLUSIVE


def not_inferior(found: Estimate, margin: float) -> bool:
    """Whether the interval excludes a loss of `margin` or more: not the same as `not significantly worse`."""
    return enough(found) and found.low > -margin


def enough(found: Estimate) -> bool:
    """Whether there are groups enough for any verdict."""
    return _enough(found.n_groups, found.effective_groups)


def _enough(groups: int, effective: float) -> bool:
    return groups >= MIN_GROUPS and effective >= MIN_EFFECTIVE_GROUPS


def detectable(found: Estimate, config: EvalConfig) -> float | None:
    """The true difference that comes out `better` in 80 % of evaluations of this size.

    None where none would, and where all groups differ alike, so that nothing is known of luck.

    Half the interval for the verdict and t of the power for bad luck, both over c4: the mean of an estimated
    standard error of few groups is below the true one. check_stats.py counts that it is so.
    """
    if not enough(found) or found.unbiased_error == 0:
        return None
    freedom = degrees_of_freedom(found.effective_groups)
    luck = float(special.stdtrit(freedom, POWER)) * found.unbiased_error
    return config.min_gain + ((found.high - found.low) / 2 + luck) / _c4(freedom)


def foreseen(groups: Iterable[str], expected: Disagreement, config: EvalConfig) -> float | None:
    """`plan_detectable` of rows in these groups; None where those are too few or uneven for any verdict."""
    sizes = np.array(list(Counter(groups).values()), dtype=float)
    return plan_detectable(sizes, expected, config) if _enough(len(sizes), effective_groups(sizes)) else None


def plan_detectable(sizes: Array, expected: Disagreement, config: EvalConfig) -> float:
    """The same before anything was answered, from the groups' sizes and the disagreement to expect.

    The mean's variance is variance * sum n (1 + (n - 1) icc) / (sum n)^2: for equal groups Miller's
    variance / n_eff with n_eff = n / (1 + (n/C - 1) icc).
    """
    rows = sizes.sum()
    error = np.sqrt(expected.variance * (sizes * (1 + (sizes - 1) * expected.icc)).sum()) / rows
    freedom = degrees_of_freedom(effective_groups(sizes))
    critical = special.stdtrit(freedom, (1 + config.confidence) / 2)
    return config.min_gain + float(special.nctdtrinc(freedom, 1 - POWER, critical) * error)


def disagreement(difference: Array, groups: Indices) -> Disagreement:
    """Variance and intraclass correlation of row-wise differences, by one-way analysis of variance.

    Donner & Koval 1980 (Biometrics 36:19) for groups of unequal size; an icc below 0 is taken for 0.
    """
    sizes = np.bincount(groups).astype(float)
    rows, count = sizes.sum(), len(sizes)
    variance = float(difference.var(ddof=1)) if rows > 1 else 0.0
    if count < 2 or count == rows or variance == 0:
        return Disagreement(variance, 0.0)
    means = np.bincount(groups, weights=difference) / sizes
    between = (sizes * (means - difference.mean()) ** 2).sum() / (count - 1)
    within = ((difference - means[groups]) ** 2).sum() / (rows - count)
    typical = (rows - (sizes**2).sum() / rows) / (count - 1)
    icc = (between - within) / (between + (typical - 1) * within)
    return Disagreement(variance, float(np.clip(icc, 0.0, 1.0)))


def _c4(freedom: float) -> float:
    """The mean of a standard deviation estimated from normal values, over the true one."""
    return float(
        np.sqrt(2 / freedom) * np.exp(special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2))
    )
