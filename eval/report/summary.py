"""report.json: every arm's metrics, the adapter against every other arm, the verdict."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from eval import gate, stats
from eval.arms import ADAPTER
from eval.predictions import Prediction, pair
from eval.tasks import Task
from finetune.config.eval import EvalConfig

ArmPredictions = Mapping[str, Sequence[Prediction]]
"""Predictions of all tasks by arm."""


@dataclass
class Comparison:
    """`b` minus `a` on one metric of one task, in the fields of the contract."""

    a: str
    b: str
    task: str
    metric: str
    delta: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float | None
    mde: float
    n: int
    n_groups: int
    verdict: str


def summarise(
    tasks: Sequence[Task], predictions: ArmPredictions, vocabulary: AbstractSet[str], config: EvalConfig
) -> dict[str, Any]:
    """The content of report.json; `primary` is the task whose metric decides.

    Raises DataError where two arms do not hold the same rows.
    """
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
    _adjust(comparisons, {task.name: task.metric.name for task in tasks})
    report = {"arms": arms, "comparisons": [asdict(item) for item in comparisons], "primary": config.primary}
    return {
        **report,
        "verdict": gate.deciding(report, config)["verdict"],
        "labels": _labels(tasks, predictions),
    }


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
        found |= {f"{prefix}/{field}": item[field] for field in ("delta", "ci_low", "ci_high", "p", "mde")}
    return found


def _labels(tasks: Sequence[Task], predictions: ArmPredictions) -> dict[str, dict[str, Any]]:
    """By task and arm the metrics of each label alone, of those kinds that are reported so."""
    return {
        task.name: {arm: task.by_label(of_task(task, found)) for arm, found in predictions.items()}
        for task in tasks
        if task.by_label is not None
    }


def _compare(task: Task, predictions: ArmPredictions, arm: str, config: EvalConfig) -> list[Comparison]:
    pairs = pair(of_task(task, predictions[arm]), of_task(task, predictions[ADAPTER]))
    found = {metric: stats.estimate(item, config) for metric, item in task.differences(pairs).items()}
    return [
        Comparison(
            a=arm,
            b=ADAPTER,
            task=task.name,
            metric=metric,
            delta=item.value,
            ci_low=item.low,
            ci_high=item.high,
            p=item.p,
            p_adjusted=None,
            mde=stats.detectable(item, config),
            n=item.n,
            n_groups=item.n_groups,
            verdict=stats.verdict(item, config.min_gain),
        )
        for metric, item in found.items()
    ]


def _adjust(comparisons: Sequence[Comparison], primary: Mapping[str, str]) -> None:
    """Holm over the comparisons of each task's own metric; the others are exploratory and keep null."""
    family = [item for item in comparisons if item.metric == primary[item.task]]
    for item, adjusted in zip(family, stats.holm([item.p for item in family]), strict=True):
        item.p_adjusted = adjusted
