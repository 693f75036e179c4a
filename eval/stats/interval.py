"""The interval and p that decide a verdict: the bootstrap of whole groups, as wide as Student's t demands."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from eval.predictions import Array, Indices
from eval.stats.groups import GroupStatistic, bootstrap, effective_groups, mean, unbiased_error, whole
from eval.stats.paired_tests import cluster_t, mcnemar
from finetune.config.eval import EvalConfig
from finetune.errors import DataError

BOOTSTRAP, STUDENT, MID_P = "cluster bootstrap", "cluster-robust t", "McNemar mid-p"
TAIL_DRAWS = 3
"""Draws that must lie beyond each end of a bootstrap interval, or the end is the outermost draw's luck."""


@dataclass(frozen=True)
class Estimate:
    """A value with its clustered interval; `p` is two-sided against zero, by the test that is named."""

    value: float
    low: float
    high: float
    p: float
    standard_error: float
    """By the metric's own formula (Miller's for a mean), else the unbiased one."""
    unbiased_error: float
    """By leaving groups out (CR2, Bell & McCaffrey 2002): unbiased for few and uneven groups too."""
    n: int
    n_groups: int
    effective_groups: float
    test: str = BOOTSTRAP


def estimate(statistic: GroupStatistic, config: EvalConfig, draws: Array | None = None) -> Estimate:
    """Value, interval and p by the bootstrap of whole groups; `draws` where the caller has them already.

    The interval is the percentile interval, expanded so that its quantiles are those of Student's t with
    (effective groups - 1) degrees of freedom (Hesterberg 2015, The American Statistician 69:371): with many
    groups it is the plain percentile interval, with few or uneven ones it is as wide as t demands. `p` is
    the level at which that interval just touches zero; it cannot fall below what the number of draws resolves.
    Where so few groups count that the draws do not reach its ends, both are of the cluster-robust t-test. Where
    rows are right or wrong and each is a group of its own, `p` is McNemar's mid-p.
    Raises DataError where all rows are in one group, or the metric has no value on some draw.
    """
    draws = drawn(statistic, config) if draws is None else draws
    effective, error, value = effective_groups(statistic.sizes), unbiased_error(statistic), whole(statistic)
    if resolved(effective, config.confidence, len(draws)):
        tail = expanded_tail((1 - config.confidence) / 2, effective)
        low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
        p, test = expanded_p(draws, effective), BOOTSTRAP
    else:
        low, high = student_interval(value, error, effective, config.confidence)
        # a constant difference has no error: even then no test of signs has a smaller p
        p, test = max(cluster_t(value, error, effective), 2.0 ** (1 - len(statistic.sizes))), STUDENT
    scores = statistic.scores
    if scores is not None and scores.binary() and (statistic.sizes == 1).all():
        p, test = mcnemar(scores).mid_p, MID_P
    return Estimate(
        value=value,
        low=low,
        high=high,
        p=p,
        standard_error=error if statistic.standard_error is None else statistic.standard_error,
        unbiased_error=error,
        n=int(statistic.sizes.sum()),
        n_groups=len(statistic.sizes),
        effective_groups=effective,
        test=test,
    )


def drawn(statistic: GroupStatistic, config: EvalConfig) -> Array:
    """The bootstrap that `estimate` reads. Raises DataError as `estimate` does."""
    if len(statistic.sizes) < 2:
        raise DataError(
            "all test rows are in one group, so nothing can be said about other groups; enlarge the test set"
        )
    draws = bootstrap(statistic, config.resamples, config.seed)
    if not np.isfinite(draws).all():
        raise DataError(
            "the metric has no value on some draws of groups (NaN); a score that is no number, or too few rows"
        )
    return draws


def resolved(effective: float, confidence: float, resamples: int) -> bool:
    """Whether so many draws reach the ends of the expanded interval."""
    return expanded_tail((1 - confidence) / 2, effective) * resamples >= TAIL_DRAWS


def student_interval(value: float, error: float, effective: float, confidence: float) -> tuple[float, float]:
    """value +- t * error with (effective groups - 1) degrees of freedom."""
    reach = float(special.stdtrit(degrees_of_freedom(effective), (1 + confidence) / 2)) * error
    return value - reach, value + reach


def expanded_tail(tail: float, effective: float) -> float:
    """The percentile that gives a bootstrap tail the width of Student's t (Hesterberg 2015)."""
    freedom = degrees_of_freedom(effective)
    return float(special.ndtr(special.stdtrit(freedom, tail) * np.sqrt((freedom + 1) / freedom)))


def expanded_p(draws: Array, effective: float) -> float:
    """The two-sided level at which the expanded interval of `draws` touches zero."""
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return p_of_tail((beyond + 1) / (len(draws) + 1), effective)  # + 1: the sample itself is one of the draws


def p_of_tail(tail: float, effective: float) -> float:
    """The two-sided p where this share of draws lies beyond zero: the inverse of expanded_tail."""
    freedom = degrees_of_freedom(effective)
    quantile = special.ndtri(min(tail, 0.5)) * np.sqrt(freedom / (freedom + 1))
    return float(2 * special.stdtr(freedom, quantile))


def degrees_of_freedom(effective: float) -> float:
    """Of Student's t for this many effective groups; at least one, so that there is a t at all."""
    return max(effective - 1, 1.0)


def share_interval(scores: Array, groups: Indices, config: EvalConfig) -> tuple[float, float]:
    """The interval of one arm's mean score between 0 and 1.

    Where all rows are wrong, or all right, no draw differs and the bootstrap sees no doubt; there it is the
    exact binomial bound on as many trials as there are effective groups (the rule of three, two-sided).
    """
    found = estimate(mean(scores, groups), config)
    doubt = unseen_share(found.effective_groups, config.confidence)
    if not scores.any():
        return 0.0, doubt
    return (1 - doubt, 1.0) if (scores == 1).all() else (found.low, found.high)


def unseen_share(effective: float, confidence: float) -> float:
    """The share of trials that could go the other way and still not be seen in so many: the exact binomial bound."""
    return 1 - float(((1 - confidence) / 2) ** (1 / effective))
