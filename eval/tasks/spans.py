"""Span extraction from long documents: quotes of one label, asked window by window, scored by document."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.metrics import spans as metrics
from eval.metrics.multi_label import labels
from eval.predictions import Prediction
from eval.tasks.task import Row, Task, as_target
from finetune.chat import Target
from finetune.config.eval import TaskConfig
from finetune.errors import DataError
from finetune.generate import Answer


def make(name: str, config: TaskConfig) -> Task:
    """Right where every passage of a label in a document is quoted and nothing else."""
    return Task(
        name=name,
        metric=config.metric,
        read=_read,
        rights=metrics.rights,
        measures=metrics.measures(),
        compared=("micro_f1", "macro_f1", "aupr", "precision_at_80_recall"),
        where=config.where,
        by_label=metrics.by_label,
        join=joined,
    )


def joined(rows: Sequence[Prediction]) -> list[Prediction]:
    """One prediction for each label asked about each document, where its first window stands.

    Windows overlap: what several of them quote in the same words is one passage, as sure as where it is surest.
    The quotes' confidences are `label_scores`, null where an answer has none.
    """
    questions: dict[tuple[str, str], list[Prediction]] = {}
    for row in rows:
        questions.setdefault(asked_of(row), []).append(row)
    return [_question(windows) for windows in questions.values()]


def asked_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The document that a row or prediction is about, and the label asked: what the windows of one question share."""
    return row.get("document") or row["id"], row.get("question") or ""


def _question(windows: Sequence[Prediction]) -> Prediction:
    scored = [metrics.confidences(row) for row in windows]
    surest: dict[str, float] = {}
    for scores in scored:
        for quote, score in (scores or {}).items():
            surest[quote] = max(score, surest.get(quote, score))
    parsed = [row["prediction"] for row in windows if row["prediction"] is not None]
    quotes = list(dict.fromkeys(quote for found in parsed for quote in labels(found)))
    merged = windows[0].copy()
    merged["gold"] = list(dict.fromkeys(quote for row in windows for quote in labels(row["gold"])))
    merged["prediction"] = list(quotes) if quotes or len(parsed) == len(windows) else None
    merged["raw"] = "\n".join(row["raw"] for row in windows)
    merged["confidence"] = None
    merged["label_scores"] = None if None in scored else surest
    return merged


def _read(row: Row, answer: Answer) -> tuple[Target, Target | None]:
    if not isinstance(row["target"], list):
        raise DataError(f"id {row['id']}: the target is a text; spans need the rows of data.form=extract")
    if not row.get("question"):
        raise DataError(
            f"id {row['id']}: the row does not say which label it asks about; run `make prepare` again"
        )
    return as_target(row, answer)
