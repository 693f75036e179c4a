"""Single-label classification: the answer is the label's text, compared as a whole."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from eval.metrics import classification as metrics
from eval.predictions import Pairs, Prediction
from eval.stats import GroupStatistic
from finetune.chat import parse_answer, render_answer
from finetune.config.eval import Metric
from finetune.generate import Answer

DIFFERENCES = {
    Metric.exact_match: metrics.exact_match_difference,
    Metric.macro_f1: metrics.macro_f1_difference,
}


@dataclass(frozen=True)
class Classification:
    """Right where the parsed answer equals the target; macro-F1 averages over the labels of the test set."""

    name: str
    metric: Metric

    def predict(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer], arm: str
    ) -> list[Prediction]:
        """One prediction a row; `score` is 1 where the answer is right, else 0."""
        return [self._predict(row, answer, arm) for row, answer in zip(rows, answers, strict=True)]

    def measure(self, predictions: Sequence[Prediction], vocabulary: AbstractSet[str]) -> dict[str, float]:
        """exact_match, macro_f1 and in_vocabulary."""
        return {
            "exact_match": metrics.exact_match(predictions),
            "macro_f1": metrics.macro_f1(predictions),
            "in_vocabulary": metrics.in_vocabulary(predictions, vocabulary),
        }

    def differences(self, pairs: Pairs) -> dict[str, GroupStatistic]:
        """exact_match and macro_f1, the task's own metric first."""
        ordered = sorted(DIFFERENCES, key=lambda metric: metric is not self.metric)
        return {metric.name: DIFFERENCES[metric](pairs) for metric in ordered}

    def _predict(self, row: Mapping[str, Any], answer: Answer, arm: str) -> Prediction:
        gold = parse_answer(
            render_answer(row["target"]), like=row["target"]
        )  # as an answer comes back, spaces cut
        found = parse_answer(answer.text, like=row["target"])
        return Prediction(
            id=row["id"],
            group=row["group"],
            document=row.get("document"),
            task=self.name,
            arm=arm,
            gold=row["target"] if gold is None else gold,
            prediction=found,
            raw=answer.text,
            score=float(found == gold),
            confidence=answer.confidence,
            label_scores=None,
        )
