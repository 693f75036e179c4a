"""report.json: every arm's metrics, the adapter against every other arm, the verdict."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from typing import Any

from eval import gate, stats
from eval.arms import ADAPTER, BASE
from eval.comparison import Compared, Comparison, adjust, compare
from eval.predictions import Prediction, pair, require_several_answers
from eval.report import losses
from eval.tasks import Task
from finetune.config.eval import EvalConfig

ArmPredictions = Mapping[str, Sequence[Prediction]]
"""Predictions of all tasks by arm."""


def summarise(
    tasks: Sequence[Task], predictions: ArmPredictions, vocabulary: AbstractSet[str], config: EvalConfig
) -> dict[str, Any]:
    """The content of report.json; `primary` is the task whose metric decides.

    Raises DataError where two arms do not hold the same rows, or all rows of a task have one gold answer.
    """
    for task in tasks:
        require_several_answers(of_task(task, predictions[ADAPTER]))
    arms = {
        arm: {task.name: task.measure(of_task(task, found), vocabulary) for task in tasks}
        for arm, found in predictions.items()
    }
    comparisons = [
        item
        for task in tasks
        for arm in predictions
        if arm != ADAPTER
        for item in _compare(task, predictions, arm, config)
    ]
    adjust(comparisons, {task.name: task.metric.name for task in tasks})
    shown = [asdict(item) for item in comparisons]
    report = {"arms": arms, "comparisons": shown, "primary": config.primary}
    gate.hold_together(report, config)
    return {
        **report,
        "reference": gate.reference(arms, config),
        "verdict": gate.deciding(report, config)["verdict"],
        "labels": _labels(tasks, predictions),
    }


def foreseen(rows: Sequence[Mapping[str, Any]], config: EvalConfig) -> str:
    """Before anything is answered: the rows, their groups, and the gain in exact match that they could show."""
    groups = [row["group"] for row in rows]
    found = f"{len(rows)} test rows in {len(set(groups))} groups"
    gain = stats.foreseen(groups, stats.EXPECTED, config)
    if gain is None:
        return f"{found}, too few or uneven for any verdict"
    return (
        f"{found}: a gain of {100 * gain:.1f} points would be found 4 times in 5, were arms to differ on "
        f"{100 * stats.EXPECTED.variance:.0f} % of the rows"
    )


def of_task(task: Task, predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions of one task, in their order."""
    return [item for item in predictions if item["task"] == task.name]


def numbers(report: Mapping[str, Any]) -> dict[str, float | str]:
    """The report's numbers by name, for the tracker, and its verdict: no labels, no text."""
    found: dict[str, float | str] = {"eval/verdict": report["verdict"]}
    found |= {
        f"eval/{task}/{arm}/{metric}": value
        for arm, by_task in report["arms"].items()
        for task, values in by_task.items()
        for metric, value in values.items()
        if value is not None
    }
    for item in report["comparisons"]:
        prefix = f"eval/{item['task']}/{item['b']}-{item['a']}/{item['metric']}"
        known = {field: item[field] for field in ("delta", "ci_low", "ci_high", "p", "mde")}
        found |= {f"{prefix}/{field}": value for field, value in known.items() if value is not None}
    return found | {name: value for name, value in losses.numbers(report) if value is not None}


def _labels(tasks: Sequence[Task], predictions: ArmPredictions) -> dict[str, dict[str, Any]]:
    """By task and arm the metrics of each label alone, of those kinds that are reported so."""
    return {
        task.name: {arm: task.by_label(of_task(task, found)) for arm, found in predictions.items()}
        for task in tasks
        if task.by_label is not None
    }


def _compare(task: Task, predictions: ArmPredictions, arm: str, config: EvalConfig) -> list[Comparison]:
    pairs = pair(of_task(task, predictions[arm]), of_task(task, predictions[ADAPTER]))
    margins = {metric: margin for (name, metric), margin in gate.margins(config).items() if name == task.name}
    asked = margins if arm == BASE else {}
    return [
        compare(Compared(arm, ADAPTER, task.name, metric), statistic, config, asked.get(metric))
        for metric, statistic in task.differences(pairs, list(asked)).items()
    ]
