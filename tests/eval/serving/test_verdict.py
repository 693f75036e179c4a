"""What is held against what was seen of a server: figures and refusals worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.serving.client import Reply
from eval.serving.lora import as_served
from eval.serving.reference import Divergence, Reference, first_difference
from eval.serving.replay import Observed, Replay
from eval.serving.verdict import Bar, delta_problems, figures, problems, stops
from finetune.generate import Answer

END = 9
RIGHT = (5, 6, END)


def reply(ids: Sequence[int] = RIGHT, seconds: float = 1.0, finish: str = "stop") -> Reply:
    return Reply("text", tuple(ids), (-1.0,) * len(ids), finish, seconds)


def seen(first: Sequence[Reply], second: Sequence[Reply]) -> Observed:
    return Observed("1", (), [Replay(1, first, 10.0), Replay(16, second, 2.0)])


def reference(*divergences: Sequence[Divergence], count: int = 4) -> Reference:
    answer = Answer("text", 0.36787944117144233, RIGHT)  # e^-1, as the replies' tokens
    return Reference([answer] * count, [END], divergences or [[], []])


@pytest.mark.parametrize(
    ("own", "other", "place"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2, 3), (1, 2), 2), ((1,), (2,), 0)],
)
def test_the_first_difference(own: tuple[int, ...], other: tuple[int, ...], place: int | None) -> None:
    assert first_difference(own, other) == place


@pytest.mark.parametrize(
    ("ids", "finish", "right"),
    [
        ((5, END), "stop", True),
        ((5, 6), "length", True),
        ((5, END, 6), "length", False),
        ((5, 6), "stop", False),
        ((5, END), "length", False),
    ],
)
def test_an_answer_stops_where_an_end_token_comes(ids: tuple[int, ...], finish: str, right: bool) -> None:
    assert stops(ids, finish, [END]) is right


def test_equal_answers_pass_with_their_speed() -> None:
    times = [reply(seconds=0.1 * number) for number in range(1, 5)]
    found = figures(seen(times, [reply()] * 4), reference(), Bar(4, 0.5))
    assert (found["greedy_equal"], found["first_divergence_margin"], found["prompt_ids_equal"]) == (
        4,
        None,
        True,
    )
    assert found["latency"]["1"] == pytest.approx({"p50_s": 0.25, "p95_s": 0.385})
    assert found["tokens_per_s"] == pytest.approx({"1": 1.2, "16": 6.0})  # 12 tokens in 10 and 2 s
    assert found["replays"][0]["log_probability_gap"]["max"] == pytest.approx(0.0, abs=1e-9)
    assert list(problems(found, "merged")) == []


def test_a_difference_is_excused_below_the_floor_alone() -> None:
    other = [reply(), reply((5, 7, END)), reply(), reply()]
    below = figures(seen([reply()] * 4, other), reference([], [Divergence(1, 1, 0.49)]), Bar(4, 0.5))
    assert (below["greedy_equal"], below["first_divergence_margin"]) == (3, 0.49)
    assert list(problems(below, "merged")) == []
    above = figures(seen([reply()] * 4, other), reference([], [Divergence(1, 1, 0.5)]), Bar(4, 0.5))
    [line] = problems(above, "merged")
    assert line.startswith(
        "merged, 16 at once: 1 of 4 answers first differ from transformers' where it is sure"
    )
    assert "by up to 0.500 logits (noise floor 0.500)" in line
    ended = figures(seen([reply()] * 4, other), reference([], [Divergence(1, 1, float("inf"))]), Bar(4, 0.5))
    assert "by up to no token at all logits" in next(iter(problems(ended, "merged")))


def test_answers_that_run_on_and_other_prompts_are_problems() -> None:
    on = [reply((5, END, 6), finish="length")] * 4
    [line] = problems(figures(seen([reply()] * 4, on), reference(), Bar(4, 0.5)), "merged")
    assert "4 of 4 answers do not end at the end tokens" in line
    found = figures(Observed("1", [0, 2]), None, Bar(4, 0.5))
    assert (found["prompt_ids_equal"], found["greedy_equal"]) == (False, None)
    [line] = problems(found, "endpoint")
    assert line.startswith("endpoint: 2 of 4 prompts have other token ids than in training")


def test_a_certain_loss_is_a_problem() -> None:
    item = {"task": "t", "metric": "f1", "delta": -0.1, "ci_low": -0.2, "ci_high": -0.01}
    assert (
        list(delta_problems({"against": "adapter", "tasks": [{**item, "verdict": "inconclusive"}]}, "merged"))
        == []
    )
    [line] = delta_problems({"against": "adapter", "tasks": [{**item, "verdict": "worse"}]}, "merged")
    assert line == "merged: worse than adapter as evaluated on t f1: -0.1000 [-0.2000, -0.0100]"


def test_how_an_adapter_alone_is_served() -> None:
    found = as_served(Path("a"), {"r": 24})
    assert (found.max_rank, found.skipped) == (32, None)
    assert found.arguments("x") == [
        "--enable-lora",
        "--max-lora-rank",
        "32",
        "--lora-modules",
        f"x={Path.cwd() / 'a'}",
    ]
    dora = as_served(Path("a"), {"r": 8, "use_dora": True})
    assert dora.skipped == "the adapter is DoRA, which vLLM does not serve as an adapter"
