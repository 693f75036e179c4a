"""Which labels are taken for which, how long answers are, and the examples that were asked for."""

from typing import Any

import pytest

from eval.metrics import confusion
from eval.metrics.lengths import lengths
from eval.report.examples import pick
from eval.report.panels import matrix

GOLD = ["mit", "mit", "mit", "bsd", "bsd", "gpl", "gpl", "apl"]


def test_rows_by_gold_label_and_columns_by_what_was_answered(make: Any) -> None:
    """mit: 2 right, one taken for bsd; bsd: one right, one free text; gpl: one for apl, one no answer; apl right."""
    answers = ["mit", "mit", "bsd", "bsd", "a long story", "apl", None, "apl"]
    arms = {"adapter": make(GOLD, answers), "base": make(GOLD, ["mit"] * 8, arm="base")}
    found = confusion.confusions(arms, "adapter", frozenset(GOLD))
    # both ends of a mistake count: gpl 2, bsd 2, mit 1, apl 1; of equal ones the one with more rows, then by name
    assert found["adapter"]["labels"] == ["bsd", "gpl", "mit", "apl"]
    assert found["adapter"]["columns"] == ["bsd", "gpl", "mit", "apl", "another label", "no label"]
    assert found["adapter"]["counts"] == [
        [1, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0, 1],
        [1, 0, 2, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
    ]
    assert found["base"]["labels"] == found["adapter"]["labels"]
    assert [row[2] for row in found["base"]["counts"]] == [2, 2, 3, 1]


def test_a_large_label_set_shows_the_labels_of_its_mistakes(make: Any) -> None:
    """30 labels, of which one is taken for another and one row for a third: those three come first."""
    gold = [f"label{index % 30:02}" for index in range(300)]
    said = ["label07" if name == "label21" else name for name in gold]
    said[7] = "label29"
    found = confusion.confusions({"adapter": make(gold, said)}, "adapter", frozenset(gold))["adapter"]
    assert found["labels"][:3] == ["label07", "label21", "label29"]
    assert (len(found["labels"]), found["label_count"]) == (confusion.MOST_LABELS, 30)
    assert found["counts"][1][0] == 10
    assert all(sum(row) == 10 for row in found["counts"])
    only = confusion.confusions({"adapter": make(gold, ["label15"] * 300)}, "adapter", frozenset(gold))[
        "adapter"
    ]
    assert "label15" in only["labels"]


def test_a_change_is_a_gain_on_the_diagonal_and_a_loss_beside_it() -> None:
    own = {"labels": ["a", "b"], "columns": ["a", "b"], "counts": [[8, 2], [1, 9]], "label_count": 2}
    base = {**own, "counts": [[5, 5], [0, 10]]}
    found = matrix({"confusion": {"t": {"adapter": own, "base": base}}}, "t")
    assert found is not None
    tones = [[(cell["value"], cell["tone"].split()[0]) for cell in row["cells"]] for row in found["changes"]]
    assert tones == [[(3, "gain"), (-3, "gain")], [(1, "loss"), (-1, "loss")]]
    assert [cell["tone"] for cell in found["rows"][0]["cells"]] == ["hit heat-8", "miss heat-2"]


def test_lengths_are_quantiles_of_characters(make: Any) -> None:
    arms = {"adapter": make(["ab"] * 101, ["x" * count for count in range(101)])}
    assert lengths(arms) == {"gold": [2, 2, 2, 2, 2], "adapter": [5, 25, 50, 75, 95]}


def test_examples_are_the_rows_of_which_the_adapter_is_surest(make: Any) -> None:
    base = make(GOLD, ["mit"] * 8, arm="base")
    adapter = make(GOLD, ["bsd", "mit", "gpl", "bsd", "gpl", "gpl", "mit", "apl"])
    for place, row in enumerate(adapter):
        row["confidence"] = place / 10
    rows = [{"id": f"row{index}", "messages": [{"content": f"question {index}"}]} for index in range(8)]
    found = pick(base, adapter, rows, 1)
    assert [
        (item.kind.split(":")[0], item.question, item.gold, item.base, item.adapter) for item in found
    ] == [
        ("Broke", "question 2", "mit", "mit", "gpl"),
        ("Both wrong", "question 6", "gpl", "mit", "mit"),
        ("Fixed", "question 7", "apl", "mit", "apl"),
    ]
    assert found[0].confidence == pytest.approx(0.2)
    assert len(pick(base, adapter, rows, 9)) == 7
    assert pick(base, adapter, rows, 0) == []
