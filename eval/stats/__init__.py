"""Paired statistics clustered by group: intervals, p-values, detectable effects, verdicts (docs/statistics.md).

The unit is the group (a document with its near duplicates), never the row: rows of one group agree
with each other, and an interval that ignores it is too narrow (Miller, arXiv 2411.00640).
"""

from eval.stats.families import Spread, benjamini_hochberg, holm, seed_spread
from eval.stats.groups import (
    GroupStatistic,
    PairedScores,
    bootstrap,
    clustered_error,
    corpus_difference,
    effective_groups,
    group_weights,
    left_out,
    mean,
    mean_difference,
    unbiased_error,
    whole,
)
from eval.stats.interval import Estimate, drawn, estimate, expanded_tail, share_interval
from eval.stats.paired_tests import McNemar, bca_interval, cluster_t, mcnemar, swap_test, wild_bootstrap
from eval.stats.verdicts import (
    BETTER,
    EXPECTED,
    INCONCLUSIVE,
    MIN_EFFECTIVE_GROUPS,
    MIN_GROUPS,
    POWER,
    WORSE,
    Disagreement,
    detectable,
    disagreement,
    not_inferior,
    plan_detectable,
    verdict,
)

__all__ = [
    "BETTER",
    "EXPECTED",
    "INCONCLUSIVE",
    "MIN_EFFECTIVE_GROUPS",
    "MIN_GROUPS",
    "POWER",
    "WORSE",
    "Disagreement",
    "Estimate",
    "GroupStatistic",
    "McNemar",
    "PairedScores",
    "Spread",
    "bca_interval",
    "benjamini_hochberg",
    "bootstrap",
    "cluster_t",
    "clustered_error",
    "corpus_difference",
    "detectable",
    "disagreement",
    "drawn",
    "effective_groups",
    "estimate",
    "expanded_tail",
    "group_weights",
    "holm",
    "left_out",
    "mcnemar",
    "mean",
    "mean_difference",
    "not_inferior",
    "plan_detectable",
    "seed_spread",
    "share_interval",
    "swap_test",
    "unbiased_error",
    "verdict",
    "whole",
    "wild_bootstrap",
]
