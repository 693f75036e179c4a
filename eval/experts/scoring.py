"""What experts preferred: per row over the reviewers, with the interval and tests that comparisons have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from eval import stats
from eval.comparison import Compared, compare
from eval.experts.drawing import LEFT, RIGHT
from eval.experts.returned import BOTH_BAD, BOTH_GOOD, Judgement
from eval.predictions import numbered
from finetune.config.eval import EvalConfig
from finetune.errors import DataError

Key = Mapping[str, Any]
"""key.json."""


@dataclass(frozen=True)
class Preference:
    """One row: the shares of its reviewers who preferred each arm; the rest saw a tie."""

    group: str
    metric_gain: float
    against: float
    adapter: float


EXPECTED = stats.Disagreement(variance=0.7, icc=stats.EXPECTED.icc)
"""Of a preference of -1, 0 or 1 where three rows of ten are ties."""


def detectable_win_rate(groups: Sequence[str], config: EvalConfig) -> float | None:
    """The true win rate, ties as half, that comes out `better` in 80 % of sheets like this one; None: none does."""
    gain = stats.foreseen(groups, EXPECTED, replace(config, min_gain=0.0))
    return None if gain is None or gain >= 1 else 0.5 + gain / 2


def score(key: Key, reviewers: Sequence[Sequence[Judgement]], config: EvalConfig) -> dict[str, Any]:
    """The content of review.json. Raises DataError where nothing was judged, or rows of one group only."""
    rows = _preferences(key, reviewers)
    if not rows:
        raise DataError("no item is judged; fill the column better with left, right, both good or both bad")
    comparison = _comparison(key, rows, config)
    wins = sum(row.adapter > row.against for row in rows)
    losses = sum(row.adapter < row.against for row in rows)
    share = key["differing"] / key["rows"]
    return {
        "sheet": key["sheet"],
        "report": key["report"],
        "task": key["task"],
        "a": key["against"],
        "b": key["adapter"],
        "rows": key["rows"],
        "differing": key["differing"],
        "drawn": len(key["items"]),
        "judged": len(rows),
        "unanswered": len(key["items"]) - len(rows),
        "wins": wins,
        "losses": losses,
        "ties": len(rows) - wins - losses,
        "win_rate": _scaled(comparison, 0.5, 0.5),
        "decided": _decided(wins, losses, config.confidence),
        "gain_over_all_rows": _scaled(comparison, share, 0.0),
        "comparison": comparison,
        "choices": dict(_choices(key, [item for found in reviewers for item in found])),
        "reviewers": [_reviewer(key, found) for found in reviewers],
        "sides": _sides(reviewers),
        "agreement": agreement(reviewers),
        "metric": _metric(rows),
        "verdict": comparison["verdict"],
    }


def unblinded(key: Key, judgement: Judgement) -> str | None:
    """The choice with the arm's name for its side."""
    if judgement.choice not in (LEFT, RIGHT):
        return judgement.choice
    on_left = next(item["left"] for item in key["items"] if item["item"] == judgement.number)
    on_right = key["adapter"] if on_left == key["against"] else key["against"]
    return str(on_left if judgement.choice == LEFT else on_right)


def agreement(reviewers: Sequence[Sequence[Judgement]]) -> dict[str, Any] | None:
    """How far reviewers of the same rows agree, on the choices as they gave them; None for one reviewer.

    Sides were drawn, so the chance of agreeing blindly is that of the sides and not of a favourite arm.
    """
    if len(reviewers) < 2:
        return None
    given = [{item.number: item.choice for item in found if item.choice is not None} for found in reviewers]
    items = [
        found
        for number in sorted({number for choices in given for number in choices})
        if len(found := [choices[number] for choices in given if number in choices]) > 1
    ]
    pairs = [pair for found in items for pair in combinations(found, 2)]
    return {
        "items": len(items),
        "same": sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
        "cohen_kappa": _cohen(items) if len(reviewers) == 2 else None,  # noqa: PLR2004
        "krippendorff_alpha": krippendorff_alpha(items),
    }


def krippendorff_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """1 - observed over expected disagreement of nominal values; units may have any number of values above one.

    Krippendorff 2011, Computing Krippendorff's Alpha-Reliability. None where all values are the same, or none pair.
    """
    observed, totals = 0.0, Counter[str]()
    for values in units:
        counts = Counter(values)
        totals.update(counts)
        observed += sum(n * (len(values) - n) for n in counts.values()) / (len(values) - 1)
    count = sum(totals.values())
    expected = sum(n * (count - n) for n in totals.values()) / max(count - 1, 1)
    return 1 - observed / expected if expected else None


def _cohen(items: Sequence[Sequence[str]]) -> float | None:
    """Cohen's kappa; None where both gave one and the same choice to every row, or share none."""
    if len({choice for found in items for choice in found}) < 2:  # noqa: PLR2004
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*items, strict=True)
    return float(cohen_kappa_score(first, second))


def _preferences(key: Key, reviewers: Sequence[Sequence[Judgement]]) -> list[Preference]:
    """The judged rows in the order of the key."""
    found: dict[int, list[str]] = {}
    for judgement in (item for judgements in reviewers for item in judgements):
        choice = unblinded(key, judgement)
        if choice is not None:
            found.setdefault(judgement.number, []).append(choice)
    return [
        Preference(
            item["group"],
            item["metric_gain"],
            *(_share(found[item["item"]], key[arm]) for arm in ("against", "adapter")),
        )
        for item in key["items"]
        if item["item"] in found
    ]


def _share(choices: Sequence[str], arm: str) -> float:
    return choices.count(arm) / len(choices)


def _comparison(key: Key, rows: Sequence[Preference], config: EvalConfig) -> dict[str, Any]:
    """The share of rows on which the adapter is preferred minus that on which the other is, clustered by group."""
    groups = numbered(row.group for row in rows)
    a, b = (np.array([getattr(row, arm) for row in rows]) for arm in ("against", "adapter"))
    names = Compared(key["against"], key["adapter"], key["task"], "preference")
    found = compare(names, stats.mean_difference(a, b, groups), replace(config, min_gain=0.0))
    if found.ci_low == found.ci_high:
        found.ci_low, found.ci_high = unanimous_interval(
            found.delta, found.effective_groups, config.confidence
        )
    found.ci_low, found.ci_high = max(-1.0, found.ci_low), min(1.0, found.ci_high)  # t knows no ends
    return asdict(found)


def unanimous_interval(value: float, effective: float, confidence: float) -> tuple[float, float]:
    """The interval where every row says the same and no draw differs: as stats.share_interval has it for one arm.

    So large a share of rows could say the opposite and still not be seen in as many trials as there are groups.
    """
    unseen = stats.unseen_share(effective, confidence)
    return value - (1 + value) * unseen, value + (1 - value) * unseen


def _scaled(comparison: Mapping[str, Any], factor: float, offset: float) -> dict[str, float]:
    """The comparison's difference and interval on another scale."""
    names = {"delta": "value", "ci_low": "low", "ci_high": "high"}
    return {name: offset + factor * comparison[key] for key, name in names.items()}


def _decided(wins: int, losses: int, confidence: float) -> dict[str, float | None]:
    """The share of wins among decided rows: exact sign test and Clopper-Pearson interval, each row taken alone."""
    from scipy.stats import binomtest

    if not wins + losses:
        return {"value": None, "low": None, "high": None, "p": 1.0}
    found = binomtest(wins, wins + losses)
    interval = found.proportion_ci(confidence)
    return {
        "value": wins / (wins + losses),
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(found.pvalue),
    }


def _choices(key: Key, judgements: Sequence[Judgement]) -> Counter[str]:
    """How often each arm was preferred, and each kind of tie seen; what was left open as `unanswered`."""
    names = (key["adapter"], key["against"], BOTH_GOOD, BOTH_BAD)
    found = Counter(unblinded(key, item) or "unanswered" for item in judgements)
    return Counter({name: found[name] for name in names})


def _reviewer(key: Key, judgements: Sequence[Judgement]) -> dict[str, int]:
    found = _choices(key, judgements)
    return {**found, "unanswered": len(key["items"]) - sum(found.values())}


def _metric(rows: Sequence[Preference]) -> dict[str, int]:
    """Of the rows that are no tie: whether the task's own score prefers the same arm, the other one, or neither."""
    found = Counter(
        np.sign(row.metric_gain) * np.sign(row.adapter - row.against)
        for row in rows
        if row.adapter != row.against
    )
    return {"same": found[1.0], "opposite": found[-1.0], "silent": found[0.0]}


def _sides(reviewers: Sequence[Sequence[Judgement]]) -> dict[str, Any]:
    """How often each side was preferred: far from even, reviewers went by the place and not by the answer."""
    from scipy.stats import binomtest

    given = Counter(item.choice for found in reviewers for item in found)
    left, right = given[LEFT], given[RIGHT]
    return {
        "left": left,
        "right": right,
        "p": float(binomtest(left, left + right).pvalue) if left + right else 1.0,
    }
