"""Question answering: the answer is a short text, compared as SQuAD does."""

from collections.abc import Sequence

import numpy as np

from eval.metrics import question_answering as metrics
from eval.predictions import Array, Prediction
from eval.tasks.task import Row, Task
from finetune.chat import Target
from finetune.config.eval import TaskConfig
from finetune.errors import DataError
from finetune.generate import Answer


def make(name: str, config: TaskConfig) -> Task:
    """Right where the answer equals the target once both are normalised."""
    return Task(
        name=name,
        metric=config.metric,
        read=_read,
        rights=_rights,
        measures=metrics.measures(),
        compared=("exact_match", "f1"),
        where=config.where,
    )


def _read(row: Row, answer: Answer) -> tuple[Target, Target]:
    if not isinstance(row["target"], str):
        raise DataError(f"id {row['id']}: the target is a list; use kind=multi_label or spans for it")
    return row["target"].strip(), answer.text.strip()


def _rights(rows: Sequence[Prediction]) -> Array:
    found = [metrics.is_exact(str(row["gold"]), str(row["prediction"])) for row in rows]
    return np.array(found, dtype=float)
