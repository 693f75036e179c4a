"""Which training rows are shown as examples, in which order, and what happens where they do not fit."""

from typing import Any

import pytest
import tiny

from eval.retrieve import Examples, with_examples
from finetune.chat import Renderer

TEXTS = {
    "a": "the lessee pays rent to the lessor",
    "b": "the licensor grants a patent licence",
    "c": "rent is due on the first day, the lessee pays rent",
    "d": "governed by the law of Utah",
}


def row(text: str, group: str, target: Any = "x") -> dict[str, Any]:
    system = {"role": "system", "content": "Name the clause."}
    return {
        "id": group,
        "group": group,
        "messages": [system, {"role": "user", "content": text}],
        "target": target,
    }


TRAIN = [row(text, group) for group, text in TEXTS.items()]


def near(text: str, count: int = 3, group: str = "test", train: list[dict[str, Any]] = TRAIN) -> list[str]:
    return [found["group"] for found in Examples(train).nearest(row(text, group), count)]


def test_the_most_alike_come_first() -> None:
    assert near("What RENT does the lessee pay?", 2) == ["a", "c"]
    assert near("a patent licence of Utah", 2) == ["b", "d"]


def test_scores_are_bm25_by_hand() -> None:
    """Lucene's formula: ln(1 + (N - n + 0.5) / (n + 0.5)) * tf / (tf + k1 (1 - b + b * length / mean length))."""
    import math

    index = Examples(TRAIN).index
    lengths = [len(text.replace(",", "").split()) for text in TEXTS.values()]
    mean = sum(lengths) / 4
    weight = 2 / (2 + 1.2 * (0.25 + 0.75 * lengths[2] / mean))
    assert index.get_scores(["rent"])[2] == pytest.approx(math.log(1 + 2.5 / 2.5) * weight, rel=1e-6)


def test_no_example_is_of_the_rows_own_group() -> None:
    assert near(TEXTS["c"], 2, group="c") == ["a", "b"]
    assert near("rent", 9, group="a") == ["c", "b", "d"]
    assert near("rent", 3, group="a", train=TRAIN[:1]) == []


def test_the_earlier_row_wins_a_tie_and_rows_without_a_shared_word_fill_up() -> None:
    twins = [row("rent" if index % 2 else "rent due", f"g{index}") for index in range(400)]
    assert near("rent", 3, train=twins) == ["g1", "g3", "g5"]
    assert near("rent", 202, train=twins)[198:] == ["g397", "g399", "g0", "g2"]
    assert near("zebra", 2) == ["a", "b"]
    assert near("?!", 2) == ["a", "b"]
    assert near("rent", 2, train=[row("...", "e"), *TRAIN]) == ["c", "a"]


def test_signs_that_are_written_without_spaces_are_words() -> None:
    train = [row("本合同受法律管辖", "law"), row("租金每月支付", "rent")]
    assert near("支付租金", 1, train=train) == ["rent"]


def texts(renderer: Renderer, ids: list[int]) -> str:
    return renderer.decode(ids)


def test_examples_are_earlier_turns_and_the_best_stands_next_to_the_question() -> None:
    renderer = Renderer(tiny.Letters(), None)
    examples = [row("best", "a", "A"), row("weak", "b", ["B", "C"])]
    found = with_examples(renderer, row("ask", "t"), examples, lambda prompt, shots: True)
    assert texts(renderer, found.ids) == (
        '[s]Name the clause.$\n[u]weak$\n[a]["B","C"]$\n[u]best$\n[a]A$\n[u]ask$\n[a]'
    )
    assert (found.shown, found.dropped) == (2, 0)


def test_the_weakest_is_dropped_first_and_counted() -> None:
    renderer = Renderer(tiny.Letters(), None)
    examples = [row("best", "a", "A"), row("weak", "b", "B"), row("weakest", "c", "C")]
    plain = len(renderer.prompt_ids(row("ask", "t")["messages"]))
    one = len("[u]best$\n[a]A$\n")

    def at_most(tokens: int) -> Any:
        return with_examples(
            renderer, row("ask", "t"), examples, lambda prompt, shots: prompt - plain <= tokens
        )

    found = at_most(one)
    assert (found.shown, found.dropped, len(found.ids)) == (1, 2, plain + one)
    assert "best" in texts(renderer, found.ids)
    assert (at_most(one - 1).shown, at_most(one - 1).dropped) == (0, 3)
    assert at_most(0).ids == renderer.prompt_ids(row("ask", "t")["messages"])
