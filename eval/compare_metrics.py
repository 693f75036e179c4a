"""The metrics by which two prediction files are compared: gold and given answers to a paired statistic."""

from dataclasses import dataclass

import numpy as np

from eval import stats
from eval.metrics import classification, label_counts, measure
from eval.metrics.label_counts import Labelled
from eval.metrics.measure import Measure
from eval.metrics.multi_label import labels
from eval.predictions import Pairs, Prediction
from finetune.chat import Target
from finetune.errors import DataError


@dataclass(frozen=True)
class PairedMetric:
    """One metric: what it reads and how it becomes a statistic of groups."""

    measure: Measure
    explained: str
    """What it is, in plain words."""
    by_score: bool = False
    """Whether it reads `score` instead of `gold` and `prediction`."""

    def difference(self, pairs: Pairs) -> stats.GroupStatistic:
        """The metric of `b` minus that of `a`."""
        found = measure.difference(self.measure, pairs)
        assert found is not None  # noqa: S101  (none of these needs more than every row has)
        return found


def labels_of(value: Target | None) -> list[str]:
    """The labels of an answer: the text itself, or the members of a list; none where it is empty or did not parse.

    Raises DataError where it is a list of spans.
    """
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise DataError(
            "answers are lists of spans: macro_f1 and micro_f1 need labels; use --metric mean_score"
        )
    return labels(value or None)


def labelled(row: Prediction) -> Labelled:
    """The gold labels of a row and those given; rows hold one label or a list of them."""
    return label_counts.sets(labels_of(row["gold"]), labels_of(row["prediction"]))


RIGHT = PairedMetric(
    label_counts.exact_match(classification.single), "the share of rows answered exactly right"
)
SCORE = Measure(
    "over all rows", lambda rows, scope: measure.mean(np.array([row["score"] for row in rows]), scope.groups)
)
METRICS = {
    "accuracy": RIGHT,
    "exact_match": RIGHT,
    "macro_f1": PairedMetric(
        label_counts.macro_f1(labelled), "F1 averaged over the labels, each counting the same"
    ),
    "micro_f1": PairedMetric(label_counts.micro_f1(labelled), "F1 over all labels together"),
    "mean_score": PairedMetric(SCORE, "the mean of the rows' scores", by_score=True),
}
