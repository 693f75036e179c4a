"""`make plan`, and `make train` that plans first, through the Makefile."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from team import Team

pytestmark = pytest.mark.pipeline
SMALL = "hardware.memory_gib=0.3"


def plan_of(team: Team) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((team.current("plans") / "plan.json").read_text())
    return found


def test_a_plan_says_whether_it_fits_what_it_takes_and_what_the_licence_allows(
    walked: tuple[Team, str],
) -> None:
    plan = plan_of(walked[0])
    assert plan["verdict"] == "fits"
    # 2 layers of 64: 40,960 quantised weights each, byte vocabulary of 261, rank 16 on seven linears
    assert plan["model"]["trainable"] == 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert plan["steps"] == 30
    assert plan["breakdown"]["LoRA weights"] * 2**30 == plan["model"]["trainable"] * 4
    assert plan["peak_allocated_gib"] == pytest.approx(sum(plan["breakdown"].values()), rel=1e-9)
    assert plan["licence"][0]["applies_to"] == "base"
    assert plan["run_hours"] is None  # a CPU's rates are not published
    assert "<svg" in (walked[0].current("plans") / "plan.html").read_text()


def test_a_run_that_does_not_fit_is_refused_with_its_levers_and_can_be_forced(breakable: Team) -> None:
    refused = breakable.stage("plan", SMALL)
    assert refused.returncode == 3
    assert "the run needs 0.9 GiB and cpu has 0.3" in refused.stderr
    assert "Traceback" not in refused.stderr
    train = breakable.stage("train", SMALL, "train.seed=5")
    assert train.returncode == 3
    forced = breakable.stage("train", SMALL, "train.seed=5", "plan.force=true")
    assert forced.returncode == 0, forced.stderr
    overrides = json.loads((breakable.current("adapters") / "manifest.json").read_text())["overrides"]
    assert overrides == ["plan.force: the plan says that this run does not fit"]


def test_a_search_keeps_the_effective_batch_and_writes_overrides_that_train_takes(breakable: Team) -> None:
    done = breakable.stage("plan", "plan.search=true")
    assert done.returncode == 0, done.stderr
    plan = plan_of(breakable)
    assert {row["micro_batch"] * row["accumulation"] for row in plan["candidates"]} == {8}
    assert (
        len(plan["candidates"]) == 4 * 4 + 3 * 4
    )  # micro-batches x modes, and packed where more than one row
    assert sum(row["chosen"] for row in plan["candidates"]) == 1
    train = breakable.stage("train", *plan["overrides"])
    assert train.returncode == 0, train.stderr


def test_a_plan_needs_neither_rows_nor_weights(fresh: Callable[[], Team]) -> None:
    team = fresh()
    done = team.stage("plan", experiment="contracts_llama8b")
    assert done.returncode == 0, done.stderr
    assert "no prepared rows yet" in done.stdout
    plan = json.loads((team.current("plans", "contracts_llama8b") / "plan.json").read_text())
    assert plan["model"]["parameters"] == 8_030_261_248
    assert plan["run_hours"] is None
    assert plan["tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("override", "told", "code"),
    [
        ("train.lora.rank=100000", "train.lora.rank=100000", 2),
        ("plan.gpus=0", "plan.gpus=0 must be above 0", 2),
        ("plan.price_per_gpu_hour=-1", "plan.price_per_gpu_hour=-1.0 must be 0 or above", 2),
        ("hardware=a100_81gb", "a100_81gb", 2),
        ("model.architecture.num_attention_heads=7", "model.architecture", 2),
        ("train.max_tokens=100000000", "train.max_tokens=100000000", 2),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    walked: tuple[Team, str], override: str, told: str, code: int
) -> None:
    done = walked[0].stage("plan", override, experiment="contracts_llama8b")
    assert done.returncode == code, done.stdout + done.stderr
    assert told in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.strip().splitlines())
