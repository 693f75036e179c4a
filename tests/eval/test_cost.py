"""What training and answers cost, with sums worked out by hand: the API's break-even, and no price of our own."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_report import priced

from eval.cost import measured, seconds_of, training_seconds
from finetune.config import load
from finetune.config.eval import CostsConfig
from finetune.config.plan import Device
from finetune.errors import ConfigError
from finetune.generate import Answer


def test_at_the_prices_of_the_user() -> None:
    """620 items in 186 s are 300 s a thousand; 214.5 tokens in at 6 and 6 out at 24 a million are 1.431 a thousand."""
    found = priced(CostsConfig(2.4, 6.0, 24.0, "EUR"))
    assert found["training"] == {"hardware": "a100_80gb", "seconds": 22320.0, "cost": pytest.approx(14.88)}
    assert found["own"] == {
        "items": 620,
        "seconds_per_1000": pytest.approx(300),
        "cost_per_1000": pytest.approx(0.2),
    }
    assert found["api"]["cost_per_1000"] == pytest.approx(1.431)
    assert found["break_even"] == {
        "verdict": "cheaper from",
        "items_per_month": pytest.approx(1752 / 0.001431),
        "server_month": pytest.approx(1752),
        "capacity_per_month": pytest.approx(8_760_000),
    }
    assert (found["missing"], found["is_cpu"], found["seconds"]) == (
        [],
        False,
        {"base": 402.0, "adapter": 186.0},
    )


def test_an_api_below_a_busy_server_is_never_beaten() -> None:
    """The server's least price of a thousand items is 0.20: at 0.1999 the API always wins, at 0.2001 not quite."""
    for price, verdict in ((0.1999, "never cheaper"), (0.2001, "cheaper from")):
        each = price / (214.5 + 6) * 1000
        found = priced(CostsConfig(2.4, each, each))["break_even"]
        assert found["verdict"] == verdict
        assert (found["items_per_month"] is None) == (verdict == "never cheaper")
        assert (found["items_per_month"] or 0) <= found["capacity_per_month"]


def test_a_server_paid_by_day_costs_less_and_answers_less() -> None:
    found = priced(CostsConfig(2.4, 6.0, 24.0, server_hours_per_month=73))["break_even"]
    assert found["server_month"] == pytest.approx(175.2)
    assert found["capacity_per_month"] == pytest.approx(876_000)


def test_without_a_price_nothing_is_invented_and_the_setting_is_named() -> None:
    found = priced(CostsConfig(None, None, 24.0), seconds=None)
    assert found["training"]["cost"] is None
    assert (found["own"]["seconds_per_1000"], found["own"]["cost_per_1000"]) == (None, None)
    assert (found["api"]["cost_per_1000"], found["break_even"]) == (None, None)
    assert [name.split(" (")[0] for name in found["missing"]] == [
        "eval.costs.price_per_hour",
        "eval.costs.api_input_per_million",
        "a measured time of the adapter's answers",
    ]


def test_figures_of_a_cpu_are_called_that() -> None:
    assert priced(CostsConfig(2.4, 6.0, 24.0), Device.cpu)["is_cpu"]


def test_an_arm_has_a_time_only_where_every_answer_has_one() -> None:
    timed = [Answer("a", None, (1, 2), seconds=0.5), Answer("b", None, (1, 2, 3, 4), seconds=1.5)]
    assert seconds_of(timed) == 2.0
    assert seconds_of([*timed, Answer("c", None)]) is None
    assert seconds_of([]) is None
    found = measured(timed, [[1] * 10, [1] * 20])
    assert (found.items, found.seconds, found.input_tokens, found.output_tokens) == (2, 2.0, 15, 3)


def test_a_training_that_was_killed_counts_all_its_sessions(tmp_path: Path) -> None:
    """The last session took 20 s; the log, which counts on, ends at 95."""
    adapter: Any = SimpleNamespace(manifest=SimpleNamespace(seconds=20.0), path=lambda name: tmp_path / name)
    assert training_seconds(adapter) == 20.0
    rows = [{"total_steps": 4}, {"step": 2, "seconds": 75.5}, {"step": 4, "seconds": 95.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_seconds(adapter) == 95.0


def test_prices_of_the_plan_hold_unless_eval_has_its_own(argv: Callable[..., list[str]]) -> None:
    found = load(argv("plan.price_per_gpu_hour=2.5", "plan.api_price_per_million_tokens=3")).eval.costs
    assert (found.price_per_hour, found.api_input_per_million, found.api_output_per_million) == (2.5, 3, 3)
    found = load(argv("plan.price_per_gpu_hour=2.5", "eval.costs.price_per_hour=0.1")).eval.costs
    assert (found.price_per_hour, found.api_input_per_million) == (0.1, None)


def test_impossible_prices_are_refused_together(argv: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            argv(
                "eval.costs.price_per_hour=-1",
                "eval.costs.api_output_per_million=-0.5",
                "eval.costs.server_hours_per_month=800",
                "eval.examples=-1",
            )
        )
    assert sorted(caught.value.problems) == [
        "eval.costs.api_output_per_million=-0.5 must be 0 or above",
        "eval.costs.price_per_hour=-1.0 must be 0 or above",
        "eval.costs.server_hours_per_month=800.0 must be above 0 and at most 744, a month's hours",
        "eval.examples=-1 must be 0 or above",
    ]
