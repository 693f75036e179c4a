"""Metrics of lists of labels on examples worked out by hand, and beside scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from eval import stats
from eval.predictions import Prediction, pair
from eval.tasks import Task, make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.generate import Answer


def task(**fields: Any) -> Task:
    return make_task("labels", TaskConfig(TaskKind.multi_label, Metric.micro_f1, **fields))


def rows_of(*targets: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": f"r{index}", "group": f"g{index}", "target": target} for index, target in enumerate(targets)
    ]


def predictions(answers: list[str], *targets: list[str], **fields: Any) -> list[Prediction]:
    return task(**fields).predict(rows_of(*targets), [Answer(text, None, ()) for text in answers], "adapter")


def test_by_hand() -> None:
    """Given 5 labels, gold 5, hits 3. a: F1 1 (2 of 2). b: 2/3 (1 hit, 1 given, 2 gold). c: 0."""
    found = predictions(['["b","a"]', '["a","x","x"]', "b and c"], ["a", "b"], ["a", "c"], ["b"])
    assert [row["score"] for row in found] == [1.0, 0.0, 0.0]
    assert [row["prediction"] for row in found] == [["b", "a"], ["a", "x", "x"], None]
    assert task().measure(found, {"a", "b", "c"}) == {
        "exact_match": pytest.approx(1 / 3),
        "micro_f1": pytest.approx(2 * 3 / (4 + 5)),
        "macro_f1": pytest.approx((1 + 2 / 3 + 0) / 3),
        "precision_at_8": None,
        "parse_rate": pytest.approx(2 / 3),
        "in_vocabulary": pytest.approx(3 / 5),  # of a, b, a, x and the answer that does not parse
    }


def test_an_empty_list_is_an_answer() -> None:
    found = predictions(["[]", "[]"], [], ["a"])
    assert [row["score"] for row in found] == [1.0, 0.0]


def test_what_a_hostile_answer_holds_is_no_label() -> None:
    found = predictions(['[1,null,{"a":"b"}]', "[" * 100_000, "[" + "9" * 5000 + "]"], ["1"], ["a"], ["a"])
    assert [row["score"] for row in found] == [0.0, 0.0, 0.0]
    assert found[1]["prediction"] is None


def test_precision_at_8_of_a_ranking() -> None:
    """The hit in the ninth place does not count; a row of one gold label reaches 1/8 at most."""
    listed = str(list("abcdefghi")).replace("'", '"')
    found = predictions([listed, '["a"]'], ["a", "c", "i"], ["a"], ranked=True)
    assert task(ranked=True).measure(found, set())["precision_at_8"] == pytest.approx((2 / 8 + 1 / 8) / 2)


def test_precision_at_8_of_scored_labels() -> None:
    (found,) = predictions(['["z"]'], ["a", "b"])
    found["label_scores"] = {**dict.fromkeys("cdefghijk", 0.5), "a": 0.9, "b": 0.1}
    assert task().measure([found], set())["precision_at_8"] == 1 / 8


def test_f1_agrees_with_scikit_learn_and_with_drawn_rows() -> None:
    rng = np.random.default_rng(3)
    draw = lambda: [[label for label in "abcde" if rng.random() < 0.4] for _ in range(80)]  # noqa: E731
    gold, said, other = draw(), draw(), draw()

    def made(answers: list[list[str]], arm: str) -> list[Prediction]:
        texts = [str(answer).replace("'", '"') for answer in answers]
        found = task().predict(rows_of(*gold), [Answer(text, None, ()) for text in texts], arm)
        for index, row in enumerate(found):
            row["group"] = f"g{index % 11}"
        return found

    def binary(labels: list[list[str]]) -> Any:
        return np.array([[letter in found for letter in "abcde"] for found in labels])

    a, b = made(other, "base"), made(said, "adapter")
    measured = task().measure(b, set())
    for average in ("micro", "macro"):
        value = sklearn_metrics.f1_score(binary(gold), binary(said), average=average)
        assert measured[f"{average}_f1"] == pytest.approx(value, abs=1e-12)
    pairs = pair(a, b)
    weights = next(stats.group_weights(11, 20, seed=1))
    for name in ("micro_f1", "macro_f1"):
        fast = task().differences(pairs)[name].value(weights)
        for row, value in zip(weights, fast, strict=True):
            drawn = np.repeat(np.arange(80), row[pairs.groups].astype(int))
            after, before = (
                sklearn_metrics.f1_score(binary(gold)[drawn], binary(arm)[drawn], average=name[:5])
                for arm in (said, other)
            )
            assert value == pytest.approx(after - before, abs=1e-12)
