"""Tasks, one file a kind: how answers become predictions, and which metrics measure them."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from eval.predictions import Pairs, Prediction
from eval.stats import GroupStatistic
from eval.tasks.classification import Classification
from finetune.config.eval import EvalConfig, Metric, TaskKind
from finetune.generate import Answer


class Task(Protocol):
    """What the evaluation asks of every kind of task."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric:
        """The metric that the task's verdict is about."""

    def predict(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer], arm: str
    ) -> list[Prediction]:
        """One prediction a row, in the order of the rows."""

    def measure(self, predictions: Sequence[Prediction], vocabulary: AbstractSet[str]) -> dict[str, float]:
        """Every metric of one arm by its name; `vocabulary` holds the known labels."""

    def differences(self, pairs: Pairs) -> dict[str, GroupStatistic]:
        """The metrics that arms are compared by, the task's own first: `b` minus `a`."""


MAKERS: dict[TaskKind, Callable[[str, Metric], Task]] = {TaskKind.classification: Classification}


def make_tasks(config: EvalConfig) -> list[Task]:
    """The configured tasks, the one that decides the verdict first."""
    names = sorted(config.tasks, key=lambda name: name != config.primary)
    return [MAKERS[config.tasks[name].kind](name, config.tasks[name].metric) for name in names]


def predict_all(
    tasks: Sequence[Task], rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, list[Prediction]]:
    """The predictions of all tasks by arm: every task reads the same answers."""
    return {
        arm: [item for task in tasks for item in task.predict(rows, found, arm)]
        for arm, found in answers.items()
    }
