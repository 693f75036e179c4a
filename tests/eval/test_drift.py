"""How the form of answers moved, counted by hand."""

import pytest

from eval.drift import drift
from eval.tasks import make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.generate import Answer

ROWS = [
    {"id": "1", "group": "a", "target": ["mit"], "language": "en"},
    {"id": "2", "group": "b", "target": ["mit", "bsd"], "language": "en"},
    {"id": "3", "group": "c", "target": ["gpl"], "language": "de"},
]


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, 0.5, (), cut=not text.endswith("]")) for text in texts]


def test_length_form_and_cuts() -> None:
    task = make_task("label", TaskConfig(TaskKind.multi_label))
    found = drift(task, ROWS, answers('["mit"]', "The licence is", "[1, 2]"), {"in_vocabulary": 0.25})
    assert found == {
        "median_characters": 7,
        "median_gold_characters": 7,  # ["mit"], ["gpl"] and ["mit","bsd"]
        "parsed": pytest.approx(2 / 3),
        "cut": pytest.approx(1 / 3),
        "in_vocabulary": 0.25,
    }


def test_only_the_rows_that_the_task_asks_about() -> None:
    task = make_task("label", TaskConfig(TaskKind.multi_label, Metric.micro_f1, where={"language": "de"}))
    found = drift(task, ROWS, answers("x", "y", "long answer"), {})
    assert (found["median_characters"], found["parsed"], found["cut"]) == (11, 0.0, 1.0)
    assert found["in_vocabulary"] is None
