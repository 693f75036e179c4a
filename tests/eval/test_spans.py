"""Quoted passages: windows merged, strict matching, areas and precisions on examples worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from eval import stats
from eval.predictions import Prediction, pair
from eval.tasks import Task, make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.errors import DataError
from finetune.generate import Answer

LAW, TERM = "Governing Law", "Renewal Term"


def task(metric: Metric = Metric.aupr) -> Task:
    return make_task("quote", TaskConfig(TaskKind.spans, metric))


def row(document: str, window: int, question: str, target: list[str]) -> dict[str, Any]:
    name = f"{document}-{window}-{question}"
    return {
        "id": name,
        "group": document,
        "document": document,
        "window": window,
        "question": question,
        "target": target,
    }


def question(gold: list[str], scores: dict[str, float], number: int = 0, label: str = LAW) -> Prediction:
    """One document's question with its quotes and their confidences, as `predict` makes it."""
    rows = [row(f"d{number}", window, label, gold) for window in range(len(scores) or 1)]
    answers = [Answer(str([quote]).replace("'", '"'), score, ()) for quote, score in scores.items()]
    (found,) = task().predict(rows, answers or [Answer("[]", 0.9, ())], "adapter")
    return found


def test_windows_of_a_document_are_one_question() -> None:
    rows = [
        row("d", 0, LAW, ["laws of Utah"]),
        row("d", 0, TERM, []),
        row("d", 1, LAW, ["laws of Utah", "laws of Ohio"]),
        row("e", 0, LAW, []),
    ]
    answers = [
        Answer('["laws of Utah"]', 0.7, ()),
        Answer("[]", 0.9, ()),
        Answer('["laws of Utah","x"]', 0.4, ()),
        Answer("none", 0.8, ()),
    ]
    law, term, other = task().predict(rows, answers, "adapter")
    assert (law["id"], law["question"], law["gold"]) == (f"d-0-{LAW}", LAW, ["laws of Utah", "laws of Ohio"])
    assert law["prediction"] == ["laws of Utah", "x"]
    assert (law["label_scores"], law["confidence"]) == ({"laws of Utah": 0.7, "x": 0.4}, None)
    assert (term["prediction"], term["score"]) == ([], 1.0)
    assert (other["prediction"], other["score"]) == (
        None,
        0.0,
    )  # nothing was to be found, but that is no list


def test_each_passage_and_each_quote_counts_once() -> None:
    """The quote is like both passages; officially it finds both."""
    found = task().measure([question(["a b c d", "a b c e"], {"a b c d": 0.9})], set())
    assert found["micro_f1"] == pytest.approx(2 * 1 / (2 + 1))
    assert found["aupr"] == 0.5
    assert found["cuad_aupr"] == 1.0
    found = task().measure([question(["a b c d"], {"a b c": 0.9, "b c d": 0.8})], set())
    assert found["micro_f1"] == pytest.approx(2 * 1 / (1 + 2))
    # the first quote is like both passages, but taken by one of them; the other passage is left to the second
    found = task().measure([question(["a b c d e", "a b c d f"], {"a b c d e": 0.9, "f b c x": 0.8})], set())
    assert found["micro_f1"] == 1.0
    assert (
        task().measure([question(["a b c d"], {"x": 0.95, "a b c": 0.9, "b c d": 0.8})], set())["aupr"] == 0.5
    )


def test_strict_numbers_by_hand() -> None:
    """Ranking: hit .9, miss .8, hit .8, miss .3 of three passages: 1/3 at 1, 2/3 at 2/3, 2/3 at 2/4."""
    rows = [
        question(["a b"], {"a b": 0.9, "m n": 0.3}, 0),
        question(["c d"], {"c d": 0.8}, 1),
        question([], {"o p": 0.8}, 2),
        question(["e f"], {}, 3, TERM),
    ]
    found = task().measure(rows, set())
    assert found["aupr"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert found["precision_at_80_recall"] == 0.0
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["macro_f1"] == pytest.approx((2 * 2 / (2 + 4) + 0) / 2)
    assert found["exact_match"] == 0.25
    by_label = task().by_label(rows)  # type: ignore[misc]
    assert list(by_label) == [LAW, TERM]
    assert by_label[LAW]["aupr"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert by_label[LAW]["precision_at_80_recall"] == pytest.approx(2 / 3)
    assert by_label[TERM]["aupr"] == 0.0


def test_precision_at_80_percent_of_five_passages() -> None:
    """Four of five are enough; the made-up quote is the surest, so no threshold is without it."""
    rows = [question([f"p{n}"], {f"p{n}": 0.9} if n < 4 else {"z": 0.95}, n) for n in range(5)]
    assert task().measure(rows, set())["precision_at_80_recall"] == 4 / 5


def test_aupr_is_scikit_learns_average_precision() -> None:
    """Times the share of passages that are quoted at all, which scikit-learn does not know."""
    rng = np.random.default_rng(4)
    hits, scores = rng.random(120) < 0.5, rng.integers(1, 40, 120) / 40
    rows = [
        question([f"p{n}"], {f"p{n}" if hit else "z": score}, n)
        for n, (hit, score) in enumerate(zip(hits, scores, strict=True))
    ]
    value = average_precision_score(hits, scores) * hits.sum() / 120
    assert task().measure(rows, set())["aupr"] == pytest.approx(value, abs=1e-12)


def test_without_confidence_there_is_no_area() -> None:
    rows = [row("d", 0, LAW, ["x"]), row("e", 0, LAW, ["x"])]
    unsure = task().predict(rows, [Answer('["x"]', None, ()), Answer("[]", None, ())], "svm")
    found = task().measure(unsure, set())
    assert found["micro_f1"] == pytest.approx(2 / 3)
    assert {name for name, value in found.items() if value is None} == {
        "aupr",
        "precision_at_80_recall",
        "cuad_aupr",
        "cuad_precision_at_80_recall",
        "cuad_precision_at_90_recall",
    }
    sure = task().predict(rows, [Answer('["x"]', 0.5, ()), Answer("[]", 0.5, ())], "adapter")
    assert list(task().differences(pair(unsure, sure))) == ["micro_f1", "macro_f1"]
    silent = task().predict(
        rows, [Answer("[]", None, ())] * 2, "majority"
    )  # quotes nothing: no confidence lacks
    assert task().measure(silent, set())["aupr"] == 0.0


@pytest.mark.parametrize(
    "metric", ["aupr", "precision_at_80_recall", "cuad_aupr", "cuad_precision_at_80_recall"]
)
def test_draws_of_groups_are_what_drawn_questions_give(metric: str) -> None:
    rng = np.random.default_rng(6)

    def arm(name: str) -> list[Prediction]:
        found = []
        for number in range(40):
            words = [f"p{number}", f"q{number}"][: number % 3]
            quotes = {word: float(rng.random()) for word in words if rng.random() < 0.95}
            quotes["z"] = float(rng.random() / 2)
            found.append({**question(words, quotes, number), "arm": name, "group": f"g{number % 7}"})
        return found  # type: ignore[return-value]

    a, b = arm("base"), arm("adapter")
    pairs = pair(a, b)
    weights = next(stats.group_weights(7, 20, seed=1))
    fast = task(Metric[metric]).differences(pairs)[metric].value(weights)
    for row_weights, value in zip(weights, fast, strict=True):
        drawn = np.repeat(np.arange(40), row_weights[pairs.groups].astype(int))
        after, before = (task().measure([found[index] for index in drawn], set())[metric] for found in (b, a))
        assert value == pytest.approx((after or 0) - (before or 0), abs=1e-12)
    assert np.std(fast) > 0.001


def test_a_confidence_that_is_no_number_is_refused() -> None:
    with pytest.raises(
        DataError, match="id d-0-Governing Law has a confidence that is no number in arm adapter"
    ):
        task().predict([row("d", 0, LAW, [])], [Answer('["x"]', math.nan, ())], "adapter")


def test_rows_that_do_not_say_what_they_ask_are_refused() -> None:
    bare = row("d", 0, LAW, []) | {"question": None}
    with pytest.raises(DataError, match="does not say which label it asks about; run `make prepare` again"):
        task().predict([bare], [Answer("[]", 0.5, ())], "adapter")
    with pytest.raises(DataError, match="the target is a text"):
        task().predict([{**bare, "target": "x"}], [Answer("[]", 0.5, ())], "adapter")
