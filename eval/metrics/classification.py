"""Metrics of single labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from eval.metrics import label_counts
from eval.metrics.label_counts import Labelled
from eval.metrics.measure import ArmStatistic, Measure, Scope, ratio
from eval.predictions import Prediction
from finetune.chat import Target, render_answer

NO_LABEL = "\x00none"
"""Stands for an answer that does not parse: never a gold label."""


def label(value: Target | None) -> str:
    """The text by which two answers are compared."""
    return NO_LABEL if value is None else render_answer(value)


def single(row: Prediction) -> Labelled:
    """The gold label of a row and the one that was given, if any."""
    said = [] if row["prediction"] is None else [label(row["prediction"])]
    return label_counts.sets([label(row["gold"])], said)


def measures(out_of_scope: str | None) -> Mapping[str, Measure]:
    """Every metric by its name; with a label for rows outside the others, how they are told apart."""
    scopes = {} if out_of_scope is None else _scopes(out_of_scope)
    return {
        "exact_match": label_counts.exact_match(single),
        "macro_f1": label_counts.macro_f1(single),
        "micro_f1": label_counts.micro_f1(single),
        "balanced_accuracy": label_counts.balanced_accuracy(single),
        **scopes,
        "in_vocabulary": label_counts.in_vocabulary(single),
    }


def _scopes(out_of_scope: str) -> dict[str, Measure]:
    return {
        "in_scope_accuracy": Measure(
            "over the rows whose gold label is not the out-of-scope one",
            lambda rows, scope: _accuracy(rows, scope, [label(row["gold"]) != out_of_scope for row in rows]),
        ),
        "oos_recall": Measure(
            "over the rows whose gold label is the out-of-scope one: those that are given it",
            lambda rows, scope: _accuracy(rows, scope, [label(row["gold"]) == out_of_scope for row in rows]),
        ),
    }


def _accuracy(rows: Sequence[Prediction], scope: Scope, chosen: Sequence[bool]) -> ArmStatistic | None:
    """Share of right answers among the chosen rows; None where there are none."""
    if not any(chosen):
        return None
    counted = np.array(chosen, dtype=float)
    return ratio(label_counts.rights(rows, single) * counted, counted, scope.groups)
