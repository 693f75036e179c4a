"""Whether the adapter kept what the base could: non-inferiority of each suite with a margin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from eval import stats
from eval.forgetting.suites import INSTRUCTIONS
from finetune.config.eval import EvalConfig

FIELDS = (
    "name kind n n_groups metric chance value_base base_low value_adapter delta ci_low ci_high p p_adjusted mde margin "
    "not_inferior verdict left_out cut_base cut_adapter skipped"
).split()
"""Of one suite in report.json; all but the names are null where it is skipped, and
`margin` and `not_inferior` where eval.forgetting.margins does not name it."""


@dataclass(frozen=True)
class Scored:
    """Of each item 1 or 0 for each thing asked, of both arms."""

    name: str
    kind: str
    base: list[list[float]]
    adapter: list[list[float]]
    chance: float
    left_out: Mapping[str, int]


def skipped(name: str, kind: str, reason: str) -> dict[str, Any]:
    """The record of a suite that was not asked."""
    return dict.fromkeys(FIELDS) | {"name": name, "kind": kind, "skipped": reason}


def record(scored: Scored, config: EvalConfig) -> dict[str, Any]:
    """The record of a suite whose verdict has yet to be read together with the others'.

    The item (IFEval's prompt) is the group. Where an item asks one thing the interval is Tango's score interval.
    """
    base, adapter = (np.array(sum(side, [])) for side in (scored.base, scored.adapter))
    groups = np.repeat(np.arange(len(scored.base)), [len(found) for found in scored.base])
    statistic = stats.mean_difference(base, adapter, groups)
    found = _widened(stats.estimate(statistic, config), statistic, config)
    low = stats.share_interval(base, groups, config)[0]
    margin = config.forgetting.margins.get(scored.name)
    return dict.fromkeys(FIELDS) | {
        "name": scored.name,
        "kind": scored.kind,
        "n": found.n,
        "n_groups": found.n_groups,
        "metric": "instruction_accuracy" if scored.kind == INSTRUCTIONS else "accuracy",
        "chance": scored.chance,
        "value_base": float(base.mean()),
        "base_low": low,
        "value_adapter": float(adapter.mean()),
        "delta": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "p": found.p,
        "mde": stats.detectable(found, replace(config, min_gain=0.0)),
        "margin": margin,
        "not_inferior": None if margin is None else _is_kept(found, margin, low - scored.chance),
        "verdict": stats.verdict(found, 0.0, config.confidence),
        "left_out": dict(scored.left_out),
    }


def together(suites: Sequence[dict[str, Any]], config: EvalConfig) -> list[dict[str, Any]]:
    """The records with Holm's p over the suites that were asked; a verdict that it does not bear is taken back.

    `not_inferior` needs none: who asks that all of several suites are kept errs no more often than with one.
    """
    asked = [item for item in suites if item["skipped"] is None]
    for item, p in zip(asked, stats.holm([item["p"] for item in asked]), strict=True):
        item["p_adjusted"] = p
        if p >= 1 - config.confidence:
            item["verdict"] = stats.INCONCLUSIVE
    return list(suites)


def _is_kept(found: stats.Estimate, margin: float, ability: float) -> bool:
    """Whether a loss of the margin is excluded, of a base that surely has more than that to lose.

    `ability` is how far the base lies above chance at least: who can do nothing loses nothing, and that is no proof.
    """
    return stats.not_inferior(found, margin) and (ability > margin or found.low > 0)


def _widened(found: stats.Estimate, statistic: stats.GroupStatistic, config: EvalConfig) -> stats.Estimate:
    """The estimate with an interval that knows what few items can miss: resampled, no difference stays none."""
    scores = statistic.scores
    if scores is not None and (statistic.sizes == 1).all():
        low, high = stats.score_interval(scores, config.confidence)
        return replace(found, low=low, high=high)
    if found.unbiased_error > 0:
        return found
    square = float(special.ndtri((1 + config.confidence) / 2)) ** 2
    missed = square / (found.effective_groups + square)
    return replace(found, low=found.value - missed, high=found.value + missed)
