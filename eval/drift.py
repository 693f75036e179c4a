"""How the form of an arm's answers moved: their length, whether they parse, end by themselves and know the labels."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from eval.tasks.task import Row, Task
from finetune.chat import render_answer
from finetune.generate import Answer


def drift(
    task: Task, rows: Sequence[Row], answers: Sequence[Answer], metrics: Mapping[str, float | None]
) -> dict[str, Any]:
    """Medians in characters and shares of one arm's answers to the rows that a task asks about.

    `metrics` are the arm's own on this task: `in_vocabulary` is taken from there, None where answers are no labels.
    """
    asked = [(row, answer) for row, answer in zip(rows, answers, strict=True) if task.asks(row)]
    return {
        "median_characters": median(len(answer.text) for _, answer in asked),
        "median_gold_characters": median(len(render_answer(row["target"])) for row, _ in asked),
        "parsed": _share([task.read(row, answer)[1] is not None for row, answer in asked]),
        "cut": _share([answer.cut for _, answer in asked]),
        "in_vocabulary": metrics.get("in_vocabulary"),
    }


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)
