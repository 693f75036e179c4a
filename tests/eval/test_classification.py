"""Metrics of single labels on examples worked out by hand, and the fast bootstrap against a slow one."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from eval import stats
from eval.metrics.classification import label
from eval.predictions import Prediction, pair
from eval.tasks import Task, make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.generate import Answer


def task(**fields: Any) -> Task:
    return make_task("label", TaskConfig(TaskKind.classification, **fields))


def measured(predictions: list[Prediction], **fields: Any) -> dict[str, float | None]:
    return task(**fields).measure(predictions, {"a", "b"})


def test_macro_f1_by_hand(make: Any) -> None:
    """a: precision 1/2, recall 1, F1 2/3. b: 1, 1/2, 2/3. c: 0. The stray d is no label."""
    found = measured(make(["a", "b", "b", "c"], ["a", "b", "a", "d"]))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found["exact_match"] == found["micro_f1"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_micro_f1_counts_no_answer_as_a_miss_only(make: Any) -> None:
    """Two hits, three labels given, four gold."""
    found = measured(make(["a", "a", "b", "b"], ["a", None, "b", "a"]))
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["exact_match"] == 0.5


def test_answers_outside_the_known_labels_are_counted(make: Any) -> None:
    found = measured(make(["a", "a", "b", "b"], ["a", "b", "the licence is b", None]))
    assert found["in_vocabulary"] == 0.5


def test_queries_out_of_scope_are_told_apart(make: Any) -> None:
    """In scope 2 of 3 are right; of two queries outside, one is given the label for them."""
    predictions = make(["a", "a", "b", "oos", "oos"], ["a", "oos", "b", "oos", "a"])
    found = measured(predictions, out_of_scope="oos")
    assert (found["in_scope_accuracy"], found["oos_recall"]) == (pytest.approx(2 / 3), 0.5)
    assert "oos_recall" not in measured(predictions)
    assert measured(make(["a"], ["a"]), out_of_scope="oos")["oos_recall"] is None


def test_averages_agree_with_scikit_learn(make: Any) -> None:
    rng = np.random.default_rng(2)
    gold, answers = (rng.choice(list("abcde"), 200, p=[0.5, 0.2, 0.15, 0.1, 0.05]).tolist() for _ in range(2))
    found = measured(make(gold, answers))
    for name, value in (
        ("macro_f1", sklearn_metrics.f1_score(gold, answers, average="macro")),
        ("micro_f1", sklearn_metrics.f1_score(gold, answers, average="micro")),
        ("balanced_accuracy", sklearn_metrics.balanced_accuracy_score(gold, answers)),
    ):
        assert found[name] == pytest.approx(value, abs=1e-12)


def test_exact_match_difference_by_hand(make: Any) -> None:
    pairs = pair(
        make(["a", "b", "c", "d"], ["a", "x", "x", "x"], arm="base"),
        make(["a", "b", "c", "d"], ["x", "b", "c", "x"]),
    )
    assert task().differences(pairs)["exact_match"].value(np.ones((1, 4))).tolist() == [0.25]


def macro_f1(rows: list[Prediction]) -> float:
    gold = [label(row["gold"]) for row in rows]
    given = [label(row["prediction"]) for row in rows]
    return float(
        sklearn_metrics.f1_score(gold, given, labels=sorted(set(gold)), average="macro", zero_division=0)
    )


def test_group_counts_give_what_resampled_rows_give(make: Any) -> None:
    """Every draw of the fast bootstrap equals scikit-learn on the drawn rows themselves."""
    rng = np.random.default_rng(5)
    labels, rows, groups = list("abcdef"), 60, [f"g{index % 17}" for index in range(60)]
    gold = ["f", *(labels[index] for index in rng.integers(0, 5, rows - 1))]
    a, b = (
        make(gold, [labels[index] for index in rng.integers(0, 6, rows)], groups, arm)
        for arm in ("base", "adapter")
    )
    assert gold.count("f") == 1  # absent from many draws
    pairs = pair(a, b)
    fast = stats.bootstrap(task().differences(pairs)["macro_f1"], 50, seed=3)
    slow = []
    for weights in next(stats.group_weights(17, 50, seed=3)):
        drawn = np.repeat(np.arange(rows), weights[pairs.groups].astype(int))
        slow.append(macro_f1([b[index] for index in drawn]) - macro_f1([a[index] for index in drawn]))
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    assert np.std(slow) > 0.01


def test_the_tasks_own_metric_is_compared_first(make: Any) -> None:
    pairs = pair(make(["a", "b"], ["a", "a"], arm="base"), make(["a", "b"], ["a", "b"]))
    found = task(metric=Metric.balanced_accuracy).differences(pairs)
    assert list(found) == ["balanced_accuracy", "exact_match", "macro_f1"]


def test_answers_become_prediction_rows() -> None:
    rows = [{"id": "r1", "group": "g", "document": "d", "messages": [], "target": "mit"}]
    (found,) = task().predict(rows, [Answer(" mit\n", 0.75, ())], "adapter")
    assert found == {
        "id": "r1",
        "group": "g",
        "document": "d",
        "task": "label",
        "arm": "adapter",
        "gold": "mit",
        "prediction": "mit",
        "raw": " mit\n",
        "score": 1.0,
        "confidence": 0.75,
        "label_scores": None,
    }
