"""What a model card says of an evaluation: gains against each arm, and what was lost, from report.json alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.artifacts import Artifact

SHOWN = 8
"""Slices that are listed; of more, how many there are."""


def gain(report: Artifact | None) -> str:
    """The gate and the comparisons of the report on this very adapter; says so where there is none."""
    if report is None:
        return "**Not evaluated**: no evaluation of this adapter has a gate; what it gained is not known."
    found = _read(report)
    level = f"{report.manifest.config['eval']['confidence']:.0%}".replace("%", " %")
    passed = "passed" if found["gate"]["passed"] else "**not passed**"
    lines = [
        f"Verdict: **{found['verdict']}** against {found['reference']}, the best of those it must beat on "
        f"{found['primary']}; gate {passed} (report {report.manifest.run}).",
        "",
        f"| against | task | metric | gain | {level} interval | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for item in found["comparisons"]:
        lines.append(
            f"| {item['a']} | {item['task']} | {item['metric']} | {item['delta']:+.3f} | "
            f"{_interval(item)} | {item['verdict']} |"
        )
    return "\n".join(lines)


def lost(report: Artifact | None) -> str:
    """What fell or may have fallen: forgetting, slices, drift of the answers, calibration; what was not looked at."""
    if report is None:
        return "**Not evaluated**: what the base could do before and cannot now is not known."
    found = _read(report)
    parts = [*_kept(found["gate"]["checks"]), *_forgetting(found), *_slices(found), *_drift(found)]
    return "\n".join([*parts, *_calibration(found)])


def not_evaluated(report: Artifact | None) -> list[str]:
    """The parts of an evaluation that this adapter went without, as words for a list."""
    if report is None:
        return ["every task: no report with a gate is on this adapter"]
    found = _read(report)
    lacking = {
        "what the base knew before (no forgetting suite ran)": not _suites(found),
        "groups within the test set (no slice had rows enough)": not found.get("slices"),
        "whether its confidence is right": not _calibrated(found),
        "length and form of its answers": not _drifting(found),
    }
    return [told for told, is_lacking in lacking.items() if is_lacking]


def _read(report: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.path("report.json").read_text(encoding="utf-8"))
    return found


def _interval(item: Mapping[str, Any]) -> str:
    return f"{item['ci_low']:+.3f} to {item['ci_high']:+.3f}"


def _kept(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What must not have fallen, with the margin: those checks of the gate alone."""
    kept = [check for check in checks if check["kind"] == "non_inferiority"]
    if kept:
        yield "\n| must not fall | metric | change | interval | margin | found |\n|---|---|---|---|---|---|"
    for check in kept:
        yield (
            f"| {check['task']} | {check['metric']} | {check['delta']:+.3f} | {_interval(check)} | "
            f"{check['margin']:g} | {check['verdict']} |"
        )


def _forgetting(found: Mapping[str, Any]) -> Iterator[str]:
    suites = _suites(found)
    if not suites:
        yield "\nWhat the base could do before: **not evaluated**."
        return
    yield "\n| asked of base and adapter | metric | base | adapter | change | interval |\n|---|---|---|---|---|---|"
    for item in suites:
        yield (
            f"| {item['name']} ({item['n']} rows) | {item['metric']} | {item['value_base']:.3f} | "
            f"{item['value_adapter']:.3f} | {item['delta']:+.3f} | {_interval(item)} |"
        )


def _slices(found: Mapping[str, Any]) -> Iterator[str]:
    """Slices that lost, the worst first; the worst of all where none did."""
    slices = found.get("slices") or []
    if not slices:
        yield "\nGroups within the test set: **not evaluated**, none has rows enough."
        return
    fell = sorted((item for item in slices if item["delta"] < 0), key=lambda item: float(item["delta"]))
    worst = min(slices, key=lambda item: float(item["delta"]))
    if not fell:
        yield (
            f"\nNone of {len(slices)} slices of the test set fell against the base; the least gain: {worst['by']} "
            f"{worst['slice']}, {worst['delta']:+.3f} ({_interval(worst)})."
        )
        return
    yield "\n| slice that fell | against | rows | change | interval |\n|---|---|---|---|---|"
    for item in fell[:SHOWN]:
        yield (
            f"| {item['task']}, {item['by']} {item['slice']} | {item['a']} | {item['n']} | {item['delta']:+.3f} | "
            f"{_interval(item)} |"
        )
    if len(fell) > SHOWN:
        yield f"\n{len(fell) - SHOWN} more slices fell; report {found['primary']} lists them."


def _drift(found: Mapping[str, Any]) -> Iterator[str]:
    """Share of answers that parse, are cut, or are outside the labels: the base's and the adapter's."""
    rows = _drifting(found)
    if not rows:
        yield "\nForm of the answers: **not evaluated**."
        return
    yield "\n| answers | of | parsed | cut | among the labels | characters, median |\n|---|---|---|---|---|---|"
    for task, arm, item in rows:
        known = "-" if item.get("in_vocabulary") is None else f"{item['in_vocabulary']:.3f}"
        yield (
            f"| {task} | {arm} | {item['parsed']:.3f} | {item['cut']:.3f} | {known} | {item['median_characters']} |"
        )


def _calibration(found: Mapping[str, Any]) -> Iterator[str]:
    rows = _calibrated(found)
    if not rows:
        yield "\nCalibration: **not evaluated**."
    for task, item in rows:
        yield (
            f"\nCalibration on {task}: expected calibration error {item['ece']:.3f}, Brier score {item['brier']:.3f} "
            f"over {item['n']} answers. Its confidence is that of the adapter as evaluated."
        )


def _suites(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    suites: list[Mapping[str, Any]] = (found.get("forgetting") or {}).get("suites", [])
    return [item for item in suites if item.get("delta") is not None]


def _drifting(found: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Task, arm and figures of base and adapter, where they were looked at."""
    drift = (found.get("drift") or {}).items()
    return [(task, arm, of[arm]) for task, of in drift for arm in ("base", "adapter") if of.get(arm)]


def _calibrated(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Task and figures of the adapter, where it says how sure it is."""
    adapters = ((task, of.get("adapter") or {}) for task, of in (found.get("calibration") or {}).items())
    return [(task, item) for task, item in adapters if item.get("ece") is not None]
