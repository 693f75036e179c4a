"""What was lost, in a line each for the terminal and in numbers for the tracker."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune.config.eval import EvalConfig

CALIBRATION = ("ece", "brier")
DRIFT = ("median_characters", "parsed", "cut")
SUITE = ("value_base", "value_adapter", "delta", "ci_low", "ci_high", "p")


def lines(report: Mapping[str, Any], config: EvalConfig) -> Iterator[str]:
    """The worst slice, the primary task's calibration, and what was forgotten, where the report has them."""
    if report.get("worst_slice"):
        yield _slice(report["worst_slice"], len(report["slices"]))
    found = report.get("calibration", {}).get(config.primary, {})
    told = [f"{arm} {values['ece']:.3f}" for arm, values in found.items() if values is not None]
    if told:
        yield f"calibration error (ECE) on {config.primary}: {', '.join(told)}"
    if report.get("forgetting"):
        yield "forgetting: " + "; ".join(map(_suite, report["forgetting"]["suites"]))


def numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """The numbers by name; no slice's name, which may be a label."""
    for section, fields in (("calibration", CALIBRATION), ("drift", DRIFT)):
        for task, arms in report.get(section, {}).items():
            for arm, values in arms.items():
                if values is not None:
                    yield from ((f"eval/{task}/{arm}/{field}", values[field]) for field in fields)
    if report.get("worst_slice"):
        yield "eval/worst_slice/delta", report["worst_slice"]["delta"]
        worse = sum(item["verdict"] == "worse" for item in report["slices"])
        yield "eval/slices/worse", float(worse)
        yield "eval/slices/shown", float(len(report["slices"]))
    for suite in (report.get("forgetting") or {}).get("suites", []):
        yield from ((f"eval/forgetting/{suite['name']}/{field}", suite[field]) for field in SUITE)


def _slice(item: Mapping[str, Any], count: int) -> str:
    return (
        f"worst of {count} slices: {item['by']} {item['slice']} of {item['task']}, {item['b']} minus {item['a']} on "
        f"{item['metric']} {item['delta']:+.4f} [{item['ci_low']:+.4f}, {item['ci_high']:+.4f}], adjusted p "
        f"{item['p_adjusted']:.2g}, {item['n']} rows: {item['verdict']}"
    )


def _suite(item: Mapping[str, Any]) -> str:
    if item["skipped"] is not None:
        return f"{item['name']} skipped ({item['skipped']})"
    excluded = "is" if item["not_inferior"] else "is not"
    kept = "" if item["margin"] is None else f", a loss of {item['margin']:g} {excluded} excluded"
    return (
        f"{item['name']} {100 * item['value_base']:.1f} % to {100 * item['value_adapter']:.1f} %, "
        f"{item['delta']:+.4f} [{item['ci_low']:+.4f}, {item['ci_high']:+.4f}]{kept}"
    )
