"""What the page shows of the report's sections, ready for its template; a section that is absent gives nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.arms import ADAPTER, BASE
from eval.slices import from_the_worst
from finetune.pages import Scale, scale_over

Report = Mapping[str, Any]
MOST_SLICES = 15
"""Slices of one kind on the page, the worst of them; report.json has them all."""
HEAT_LEVELS = 9
SUITES = {"gsm8k": "GSM8K", "mmlu": "MMLU", "bbh": "BBH", "ifeval": "IFEval"}
"""Suites whose names are not words."""
SLICED_BY = {
    "label": "By gold label",
    "length": "By length of the question",
    "source": "By source",
    "language": "By language",
    "time": "By time",
}


def sliced(report: Report, task: str, labels: bool) -> list[dict[str, Any]]:
    """Of each kind of slice its rows and a scale that holds all the task's intervals; those by label where `labels`."""
    found = [
        item
        for item in report.get("slices") or []
        if item["task"] == task and (labels or item["by"] != "label")
    ]
    if not found:
        return []
    scale = scale_over([item[key] for item in found for key in ("ci_low", "ci_high")])
    return [_kind(by, [item for item in found if item["by"] == by], scale) for by in _kinds(found)]


def _kinds(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(item["by"] for item in found))


def _kind(by: str, items: Sequence[Mapping[str, Any]], scale: Scale) -> dict[str, Any]:
    worst = sorted(items, key=from_the_worst)[:MOST_SLICES]
    shown = [item for item in items if item in worst]  # in their own order: quarters of length, months
    if by == "label":
        shown = worst
    return {"heading": SLICED_BY.get(by, by), "rows": shown, "total": len(items), "scale": scale}


def matrix(report: Report, task: str) -> dict[str, Any] | None:
    """The adapter's confusion and its change against the base, as cells with a tone and a strength."""
    by_arm = (report.get("confusion") or {}).get(task)
    if not by_arm or ADAPTER not in by_arm:
        return None
    own, base = by_arm[ADAPTER], by_arm.get(BASE)
    rows = [
        {"label": label, "rows": sum(counts), "cells": _cells(place, counts, ("hit", "miss"))}
        for place, (label, counts) in enumerate(zip(own["labels"], own["counts"], strict=True))
    ]
    changes = [] if base is None else _changes(own, base)
    return {**own, "rows": rows, "changes": changes}


def _changes(own: Mapping[str, Any], base: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adapter minus base: more right answers and fewer wrong ones are gains."""
    found = []
    for place, label in enumerate(own["labels"]):
        counts = own["counts"][place]
        gaps = [after - before for after, before in zip(counts, base["counts"][place], strict=True)]
        cells = [
            _cell(gap, sum(counts), "gain" if (gap > 0) == (column == place) else "loss")
            for column, gap in enumerate(gaps)
        ]
        found.append({"label": label, "cells": cells})
    return found


def _cells(place: int, counts: Sequence[int], tones: tuple[str, str]) -> list[dict[str, Any]]:
    return [_cell(count, sum(counts), tones[column != place]) for column, count in enumerate(counts)]


def _cell(value: int, of: int, tone: str) -> dict[str, Any]:
    """A number, and a class whose strength says its share of the row's label."""
    level = min(HEAT_LEVELS, round(HEAT_LEVELS * abs(value) / of + 0.49)) if of else 0
    return {"value": value, "tone": f"{tone} heat-{level}" if value else ""}


def calibrated(report: Report, task: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The arms whose confidence was measured, base and adapter first."""
    by_arm = (report.get("calibration") or {}).get(task) or {}
    known = {arm: found for arm, found in by_arm.items() if found}
    first = [arm for arm in (BASE, ADAPTER) if arm in known]
    return [(arm, known[arm]) for arm in [*first, *(arm for arm in known if arm not in first)]]


def long(report: Report, task: str) -> dict[str, Any] | None:
    """Quantiles of answers' characters by arm, and a scale from 0 that holds them."""
    by_arm = (report.get("lengths") or {}).get(task)
    if not by_arm:
        return None
    return {"arms": by_arm, "scale": scale_over([max(found) for found in by_arm.values()])}


def drifted(report: Report, task: str) -> Mapping[str, Any]:
    """How the form of answers moved, by arm; empty where it was not computed."""
    found: Mapping[str, Any] = (report.get("drift") or {}).get(task) or {}
    return found


def forgotten(report: Report) -> dict[str, Any] | None:
    """The suites that were asked, with a scale that holds intervals and margins, and those that were not."""
    section = report.get("forgetting")
    if not section:
        return None
    suites = [{**item, "title": _title(item["name"])} for item in section["suites"]]
    asked = [item for item in suites if not item.get("skipped")]
    ends = [item[key] for item in asked for key in ("ci_low", "ci_high")]
    margins = [-item["margin"] for item in asked if item.get("margin") is not None]
    return {
        "asked": asked,
        "skipped": [item for item in suites if item.get("skipped")],
        "scale": scale_over([*ends, *margins, 0.01]),
    }


def _title(suite: str) -> str:
    return SUITES.get(suite, suite.replace("_", " ").capitalize())
