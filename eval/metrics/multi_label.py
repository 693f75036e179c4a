"""Metrics of lists of labels."""

from collections.abc import Mapping

from eval.metrics import label_counts
from eval.metrics.label_counts import Labelled
from eval.metrics.measure import Measure
from eval.predictions import Prediction
from finetune.artifacts.hashing import canonical
from finetune.chat import Target


def labels(value: Target | None) -> list[str]:
    """The labels of an answer; what stands in a list and is no string keeps its JSON form."""
    if isinstance(value, list):
        return [item if isinstance(item, str) else canonical(item) for item in value]
    return [] if value is None else [value]


def several(row: Prediction) -> Labelled:
    """The gold labels of a row and those given, each once."""
    return label_counts.sets(labels(row["gold"]), labels(row["prediction"]))


def measures(ranked: bool) -> Mapping[str, Measure]:
    """Every metric by its name."""
    return {
        "exact_match": label_counts.exact_match(several),
        "micro_f1": label_counts.micro_f1(several),
        "macro_f1": label_counts.macro_f1(several),
        "precision_at_8": label_counts.precision_at_8(several, ranked),
        "parse_rate": label_counts.parse_rate(),
        "in_vocabulary": label_counts.in_vocabulary(several),
    }
