"""The report as tables of numbers for the tracker: no label, no row's text."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.tracking import Cell

Table = tuple[Sequence[str], Sequence[Sequence[Cell]]]
"""Column names and rows."""

NUMBERS = ("delta", "ci_low", "ci_high", "p", "p_adjusted", "mde", "n", "n_groups", "verdict")
SLICE_NUMBERS = (
    "n",
    "n_groups",
    "value_a",
    "value_b",
    "delta",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "verdict",
)


def tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """Arms by metrics, the comparisons, the slices; those without a row are left out."""
    found = {
        "eval/table/arms": _arms(report),
        "eval/table/comparisons": (
            ["task", "metric", "a", "b", *NUMBERS],
            [[item[key] for key in ("task", "metric", "a", "b", *NUMBERS)] for item in report["comparisons"]],
        ),
        "eval/table/slices": _slices(report),
    }
    return {name: table for name, table in found.items() if table[1]}


def _arms(report: Mapping[str, Any]) -> Table:
    rows = [
        [task, arm, metric, value]
        for arm, by_task in report["arms"].items()
        for task, values in by_task.items()
        for metric, value in values.items()
    ]
    return ["task", "arm", "metric", "value"], rows


def _slices(report: Mapping[str, Any]) -> Table:
    """A slice goes by its number in report.json: its name may be a label, a source or another private word."""
    rows = [
        [number, *(item[key] for key in ("task", "by", "metric", "a", "b", *SLICE_NUMBERS))]
        for number, item in enumerate(report.get("slices") or [])
    ]
    return ["slice", "task", "by", "metric", "a", "b", *SLICE_NUMBERS], rows
