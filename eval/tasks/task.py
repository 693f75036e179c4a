"""What every task is: how answers become predictions, and which metrics measure them."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics import measure
from eval.metrics.measure import Measure
from eval.predictions import Array, Pairs, Prediction
from eval.stats import GroupStatistic
from finetune.chat import Target, parse_answer, render_answer
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.errors import DataError
from finetune.generate import Answer

LABEL_SETS = (TaskKind.classification, TaskKind.multi_label, TaskKind.coding)
"""Kinds whose gold answers are labels, which a page may show; the others hold passages and free text."""

Row = Mapping[str, Any]
Read = Callable[[Row, Answer], tuple[Target, Target | None]]
"""The gold answer of a row, and what was answered: None where that does not parse."""
Rights = Callable[[Sequence[Prediction]], Array]
"""1 for each prediction that is right, else 0."""


@dataclass(frozen=True)
class Task:
    """A name, the metric that the verdict is about, and what its kind adds."""

    name: str
    metric: Metric
    read: Read
    rights: Rights
    measures: Mapping[str, Measure]
    """Every metric by its name, in the order in which a report shows them."""
    compared: tuple[str, ...]
    """Those that arms are compared by beside the task's own."""
    where: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    """What decides the scores and stands in no setting: another byte in one makes another report."""
    by_label: Callable[[Sequence[Prediction]], dict[str, dict[str, float | None]]] | None = None
    """The metrics of each label's rows alone, where a kind is reported so."""
    join: Callable[[Sequence[Prediction]], list[Prediction]] = list
    """Makes one prediction of several rows, such as the windows of a document."""

    def predict(self, rows: Sequence[Row], answers: Sequence[Answer], arm: str) -> list[Prediction]:
        """The predictions in the order of the rows; `score` is 1 where the answer is right, else 0.

        Raises DataError where no row has the values of `where`.
        """
        read = [
            self._predict(row, answer, arm)
            for row, answer in zip(rows, answers, strict=True)
            if self.asks(row)
        ]
        if not read:
            asked = ", ".join(f"{name}={value}" for name, value in self.where.items())
            raise DataError(f"no test row has {asked} (eval.tasks.{self.name}.where); correct it")
        joined = self.join(read)
        for prediction, right in zip(joined, self.rights(joined), strict=True):
            prediction["score"] = float(right)
        return joined

    def asks(self, row: Row) -> bool:
        """Whether the row has the values of `where`."""
        return all(row.get(name) == value for name, value in self.where.items())

    def measure(
        self, predictions: Sequence[Prediction], vocabulary: AbstractSet[str]
    ) -> dict[str, float | None]:
        """Every metric of one arm by its name, None where its answers do not hold what the metric needs."""
        known = frozenset(vocabulary)
        return {name: measure.value(found, predictions, known) for name, found in self.measures.items()}

    def differences(self, pairs: Pairs, also: Sequence[str] = ()) -> dict[str, GroupStatistic]:
        """The metrics that arms are compared by, the task's own first: `b` minus `a`, where both have it."""
        names = dict.fromkeys([self.metric.name, *self.compared, *also])
        found = {name: measure.difference(self.measures[name], pairs) for name in names}
        return {name: statistic for name, statistic in found.items() if statistic is not None}

    def _predict(self, row: Row, answer: Answer, arm: str) -> Prediction:
        gold, found = self.read(row, answer)
        prediction = Prediction(
            id=row["id"],
            group=row["group"],
            document=row.get("document"),
            task=self.name,
            arm=arm,
            gold=gold,
            prediction=found,
            raw=answer.text,
            score=0.0,
            confidence=answer.confidence,
            label_scores=answer.label_scores,
        )
        if row.get("question"):
            prediction["question"] = row["question"]
        return prediction


def as_target(row: Row, answer: Answer) -> tuple[Target, Target | None]:
    """Gold answer and answer in the row's own form: a text, or a JSON list."""
    gold = parse_answer(
        render_answer(row["target"]), like=row["target"]
    )  # as an answer comes back, spaces cut
    return row["target"] if gold is None else gold, parse_answer(answer.text, like=row["target"])


def required(value: str | None, name: str, config: TaskConfig) -> str:
    """A field that the kind needs; the configuration's checks hold that it is there."""
    if value is None:
        raise ValueError(f"{name} of a task of kind {config.kind.name}")
    return value
