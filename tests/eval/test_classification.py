"""Metrics on examples worked out by hand, and the fast bootstrap against a slow one."""

from typing import Any

import numpy as np
import pytest

from eval import stats
from eval.metrics.classification import (
    exact_match,
    exact_match_difference,
    in_vocabulary,
    macro_f1,
    macro_f1_difference,
)
from eval.predictions import pair
from eval.tasks.classification import Classification
from finetune.config.eval import Metric
from finetune.generate import Answer


def test_macro_f1_by_hand(make: Any) -> None:
    """a: precision 1/2, recall 1, F1 2/3. b: 1, 1/2, 2/3. c: 0. The stray d is no label."""
    found = make(["a", "b", "b", "c"], ["a", "b", "a", "d"])
    assert macro_f1(found) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert exact_match(found) == 0.5


def test_answers_outside_the_known_labels_are_counted(make: Any) -> None:
    found = make(["a", "a", "b", "b"], ["a", "b", "the licence is b", None])
    assert in_vocabulary(found, {"a", "b"}) == 0.5


def test_exact_match_difference_by_hand(make: Any) -> None:
    pairs = pair(
        make(["a", "b", "c", "d"], ["a", "x", "x", "x"], arm="base"),
        make(["a", "b", "c", "d"], ["x", "b", "c", "x"]),
    )
    assert exact_match_difference(pairs).value(np.ones((1, 4))).tolist() == [0.25]


def test_group_counts_give_what_resampled_rows_give(make: Any) -> None:
    """Every draw of the fast bootstrap equals scikit-learn on the drawn rows themselves."""
    rng = np.random.default_rng(5)
    labels, rows, groups = list("abcdef"), 60, [f"g{index % 17}" for index in range(60)]
    gold = [labels[index] for index in rng.integers(0, 5, rows)]
    a, b = (
        make(gold, [labels[index] for index in rng.integers(0, 6, rows)], groups, arm)
        for arm in ("base", "adapter")
    )
    pairs = pair(a, b)
    fast = stats.bootstrap(macro_f1_difference(pairs), 50, seed=3)
    slow = []
    for weights in next(stats.group_weights(17, 50, seed=3)):
        drawn = np.repeat(np.arange(rows), weights[pairs.groups].astype(int))
        slow.append(macro_f1([b[index] for index in drawn]) - macro_f1([a[index] for index in drawn]))
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    assert np.std(slow) > 0.01


def test_answers_become_prediction_rows() -> None:
    rows = [{"id": "r1", "group": "g", "document": "d", "messages": [], "target": "mit"}]
    (found,) = Classification("licence", Metric.exact_match).predict(
        rows, [Answer(" mit\n", 0.75, ())], "adapter"
    )
    assert found == {
        "id": "r1",
        "group": "g",
        "document": "d",
        "task": "licence",
        "arm": "adapter",
        "gold": "mit",
        "prediction": "mit",
        "raw": " mit\n",
        "score": 1.0,
        "confidence": 0.75,
        "label_scores": None,
    }


def test_a_list_that_does_not_parse_is_wrong() -> None:
    rows = [{"id": str(index), "group": "g", "messages": [], "target": ["x", "y"]} for index in range(2)]
    answers = [Answer('["x","y"]', None, ()), Answer("x and y", None, ())]
    found = Classification("labels", Metric.exact_match).predict(rows, answers, "adapter")
    assert [(item["prediction"], item["score"]) for item in found] == [(["x", "y"], 1.0), (None, 0.0)]
    assert exact_match(found) == 0.5
