"""Exact match and F1 of short answers: SQuAD's normalisation on examples worked out by hand."""

import pytest

from eval.metrics.question_answering import f1, normalised
from eval.tasks import make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.errors import DataError
from finetune.generate import Answer

TASK = make_task("qa", TaskConfig(TaskKind.qa, Metric.f1))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("an apple, a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre of the absurd", "theatre of absurd"),
        ("non-compete", "noncompete"),
        ("“the” §5", "“ ” §5"),  # only ASCII punctuation goes
    ],
)
def test_normalisation(text: str, kept: str) -> None:
    assert normalised(text) == kept


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("Denver Broncos", "the Denver Broncos.", 1.0),
        ("Denver Broncos", "Broncos of Denver won", 2 * 2 / (2 + 4)),
        ("a a b b", "b b b", 2 * 2 / (2 + 3)),  # articles go; of three b two are there
        ("30 days", "thirty days", 0.5),
        ("the", "a", 1.0),  # nothing left of either
        ("the", "b", 0.0),
        ("yes", "", 0.0),
    ],
)
def test_f1_by_hand(gold: str, answer: str, score: float) -> None:
    assert f1(gold, answer) == pytest.approx(score)


def test_both_metrics_are_means_over_rows() -> None:
    rows = [{"id": f"r{index}", "group": "g", "target": "Denver Broncos"} for index in range(3)]
    answers = [Answer(text, None, ()) for text in ("The Denver Broncos", "Broncos of Denver won", "")]
    found = TASK.predict(rows, answers, "adapter")
    assert [row["score"] for row in found] == [1.0, 0.0, 0.0]
    assert TASK.measure(found, set()) == {
        "exact_match": pytest.approx(1 / 3),
        "f1": pytest.approx((1 + 2 / 3) / 3),
    }


def test_a_list_is_no_answer_to_a_question() -> None:
    with pytest.raises(DataError, match="id r1: the target is a list"):
        TASK.predict([{"id": "r1", "group": "g", "target": ["secret"]}], [Answer("x", None, ())], "adapter")
