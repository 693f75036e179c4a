"""The plan as an artifact: what its run id knows, and that the gate holds the run that is trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from finetune.artifacts import Spec
from finetune.chat import IGNORE, Encoded
from finetune.config import RunConfig, load
from finetune.config.schema import TrainConfig
from finetune.dataset import TrainingRows
from finetune.errors import RefusedError
from finetune.licences import require_lawful
from finetune.plan.request import measured_workload, settings_of
from finetune.plan.stage import make_plan, planned, require_fit, sections_of

ROWS = 61
"""A prime: micro-batches of one row and of all."""
LARGE = (
    "hardware=rtx4090_24gb",
    "hardware.memory_gib=0.75",
    "train.checkpointing=none",
    "train.max_tokens=512",
) + (
    f"train.global_batch={ROWS}",
    f"train.micro_batch={ROWS}",
)


def composed(argv: Callable[..., list[str]], *settings: str) -> RunConfig:
    return load(argv(*settings))


@pytest.mark.parametrize(
    "setting",
    [
        "eval.batch_rows=3",
        "eval.max_new_tokens=3",
        "hardware.memory_gib=3",
        "data.licence=MIT",
        "train.lora.rank=3",
    ],
)
def test_what_decides_a_plan_decides_its_run(setting: str, argv: Callable[..., list[str]]) -> None:
    def run_id(*settings: str) -> str:
        run = composed(argv, *settings)
        return Spec("plan", 1, run.name, sections_of(run, require_lawful(run)), {}).run()

    assert run_id() == run_id()
    assert run_id(setting) != run_id()


def test_a_search_leaves_the_verdict_to_the_configured_run(argv: Callable[..., list[str]]) -> None:
    run = composed(argv, *LARGE, "plan.search=true")
    made = make_plan(run, require_lawful(run), None)
    plan: dict[str, Any] = json.loads(made.path("plan.json").read_text())
    assert plan["verdict"] == "does not fit"
    assert plan["settings"]["micro_batch"] == ROWS
    assert plan["levers"] == []
    (chosen,) = [row for row in plan["candidates"] if row["chosen"]]
    (configured,) = [row for row in plan["candidates"] if row["configured"]]
    assert (chosen["verdict"], configured["verdict"]) == ("fits", "does not fit")
    assert configured["device_gib"] == plan["device_gib"]["total"]
    assert plan["overrides"]
    with pytest.raises(RefusedError, match=f"the search found settings that fit: .*{plan['overrides'][0]}"):
        require_fit(run, made)

    page = made.path("plan.html").read_text()
    assert '<section class="banner worse">' in page
    assert f"make train CONF=tiny ARGS=&#34;{' '.join(plan['overrides'])}&#34;" in page

    with pytest.raises(
        RefusedError, match="the cheapest lever is "
    ):  # train asks for no search and gets none
        planned(run, require_lawful(run), None)
    forced = replace(run, plan=replace(run.plan, force=True))
    assert planned(forced, require_lawful(run), None)[1] == [
        "plan.force: the plan says that this run does not fit"
    ]


def test_more_gpus_hold_what_one_that_trains_does_not(argv: Callable[..., list[str]]) -> None:
    """A base that 8 share fits them; training takes one."""
    big = (
        "hardware=rtx4090_24gb",
        "model=llama31_70b",
        "plan.gpus=8",
        "train.max_tokens=64",
        "train.micro_batch=1",
    )
    use = ("export.use.commercial=true", "export.use.monthly_users=1", "model.export_name=Llama-x")
    run = composed(argv, *big, *use)
    assert require_fit(run, make_plan(run, require_lawful(run), None)) == []
    with pytest.raises(RefusedError, match="rtx4090_24gb has 23"):
        planned(run, require_lawful(run), None)


def rows(*shapes: tuple[int, int]) -> TrainingRows:
    """Rows of so many tokens, the last of them trained."""
    encoded = [
        Encoded([1] * length, [IGNORE] * (length - trained) + [1] * trained) for length, trained in shapes
    ]
    counts = {"steps": 1, "tokens": sum(shape[0] for shape in shapes)}
    return TrainingRows(
        encoded, list(range(len(shapes))), counts, [str(index) for index in range(len(shapes))]
    )


def test_answer_tokens_of_a_micro_batch_are_counted_not_rounded(argv: Callable[..., list[str]]) -> None:
    run = composed(argv, "train.micro_batch=4", "train.global_batch=4")
    work = measured_workload(rows((9, 1), (9, 1), (9, 1), (9, 2), (8, 8), (8, 8), (8, 8), (8, 8)), run.train)
    assert (work.longest, work.row_tokens, work.uneven, work.trained, work.padded) == (9, 9, False, 5, 68)
    assert settings_of(run, {}, work).trained == 5


def test_rows_of_unequal_length_take_a_mask_and_packed_ones_none() -> None:
    data = rows((9, 1), (4, 1), (6, 1), (6, 1))
    padded = measured_workload(data, TrainConfig(global_batch=2, micro_batch=2))
    assert (padded.row_tokens, padded.uneven, padded.padded) == (9, True, 30)
    packed = measured_workload(data, TrainConfig(global_batch=2, micro_batch=2, packing=True))
    assert (packed.longest, packed.row_tokens, packed.uneven, packed.padded) == (9, 7, False, 25)
