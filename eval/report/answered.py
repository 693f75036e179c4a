"""What was answered, beside right and wrong: how long answers are, and which labels are taken for which."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from eval.arms import ADAPTER
from eval.metrics.confusion import confusions
from eval.metrics.lengths import lengths
from eval.report.summary import ArmPredictions, of_task
from eval.tasks import Task
from finetune.config.eval import EvalConfig, TaskKind


def answered(
    tasks: Sequence[Task],
    predictions: ArmPredictions,
    vocabulary: AbstractSet[str],
    config: EvalConfig,
    has_labels: bool,
) -> dict[str, Any]:
    """The sections `lengths` and `confusion` of report.json, by task and arm.

    Confusion only of single labels from a set (`has_labels`): a free answer may be private text.
    """
    found = {task.name: {arm: of_task(task, rows) for arm, rows in predictions.items()} for task in tasks}
    single = [task.name for task in tasks if config.tasks[task.name].kind is TaskKind.classification]
    return {
        "lengths": {name: lengths(arms) for name, arms in found.items()},
        "confusion": {name: confusions(found[name], ADAPTER, vocabulary) for name in single if has_labels},
    }
