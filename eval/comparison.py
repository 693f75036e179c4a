"""Two arms compared on one metric: the record that report.json holds and `eval.compare --json` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval import stats
from eval.predictions import Array
from finetune.config.eval import EvalConfig

HOLM, FALSE_DISCOVERY = "Holm", "Benjamini-Hochberg"


@dataclass
class Comparison:
    """`b` minus `a` on one metric of one task, in the fields of the contract; the rest stand beside the verdict."""

    a: str
    b: str
    task: str | None
    metric: str
    delta: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float | None
    mde: float | None
    """None where the groups are too few or too uneven for any difference to show."""
    n: int
    n_groups: int
    verdict: str
    effective_groups: float
    value_a: float | None
    value_b: float | None
    test: str
    """What `p` is from; the interval is always that of whole groups drawn again."""
    adjusted_by: str | None = None
    t_p: float | None = None
    wild_p: float | None = None
    swap_p: float | None = None
    mcnemar_p: float | None = None
    mcnemar_mid_p: float | None = None
    bca_low: float | None = None
    bca_high: float | None = None
    margin: float | None = None
    not_inferior: bool | None = None
    seeds: int | None = None
    """Training seeds of `b`, where there are several; `seed_sd` is the standard deviation of their deltas."""
    seed_sd: float | None = None


@dataclass(frozen=True)
class Compared:
    """Whose difference a statistic is."""

    a: str
    b: str
    task: str | None
    metric: str


def compare(
    names: Compared, statistic: stats.GroupStatistic, config: EvalConfig, margin: float | None = None
) -> Comparison:
    """The verdict and what stands beside it. Raises DataError where all rows are in one group."""
    draws = stats.drawn(statistic, config)
    found = stats.estimate(statistic, config, draws)
    return Comparison(
        a=names.a,
        b=names.b,
        task=names.task,
        metric=names.metric,
        delta=found.value,
        ci_low=found.low,
        ci_high=found.high,
        p=found.p,
        p_adjusted=None,
        mde=stats.detectable(found, config),
        n=found.n,
        n_groups=found.n_groups,
        verdict=stats.verdict(found, config.min_gain, config.confidence),
        effective_groups=found.effective_groups,
        value_a=statistic.arms[0] if statistic.arms else None,
        value_b=statistic.arms[1] if statistic.arms else None,
        test=found.test,
        margin=margin,
        not_inferior=None if margin is None else stats.not_inferior(found, margin),
        **_beside(statistic, found, draws, config),
    )


def adjust(comparisons: Sequence[Comparison], primary: Mapping[str, str]) -> None:
    """Holm over the comparisons of each task's own metric, Benjamini-Hochberg over the others, in place."""
    family = [item for item in comparisons if item.task is not None and item.metric == primary[item.task]]
    others = [item for item in comparisons if not any(item is member for member in family)]
    for items, by, method in (
        (family, HOLM, stats.holm),
        (others, FALSE_DISCOVERY, stats.benjamini_hochberg),
    ):
        for item, adjusted in zip(items, method([item.p for item in items]), strict=True):
            item.p_adjusted, item.adjusted_by = adjusted, by


def _beside(
    statistic: stats.GroupStatistic, found: stats.Estimate, draws: Array, config: EvalConfig
) -> dict[str, Any]:
    """Textbook tests that decide nothing."""
    low, high = stats.bca_interval(draws, found.value, stats.left_out(statistic), config.confidence)
    rows = statistic.scores
    counts = stats.mcnemar(rows) if rows is not None and rows.binary() else None
    return {
        "t_p": stats.cluster_t(found.value, found.standard_error, found.effective_groups),
        "wild_p": stats.wild_bootstrap(statistic, config.resamples, config.seed),
        "swap_p": stats.swap_test(statistic, config.resamples, config.seed),
        "mcnemar_p": counts and counts.exact,
        "mcnemar_mid_p": counts and counts.mid_p,
        "bca_low": low,
        "bca_high": high,
    }
