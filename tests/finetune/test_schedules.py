"""The learning rate of each step, by transformers' own schedulers."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.optimization import get_scheduler

from finetune.config import load
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Schedule, TrainConfig
from finetune.dataset import steps
from finetune.errors import ConfigError
from finetune.schedules import schedule_options
from finetune.trainer import sft_config

DEMO = "experiment=licences_smollm135m"


def rates(train: TrainConfig, count: int) -> list[float]:
    """The learning rate that each of `count` steps takes, through TRL's settings."""
    found = sft_config(train, HardwareConfig("cpu", Device.cpu), count, Path("unused"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.lr)
    scheduler = get_scheduler(
        found.lr_scheduler_type,
        optimizer,
        num_warmup_steps=found.get_warmup_steps(count),
        num_training_steps=count,
        scheduler_specific_kwargs=found.lr_scheduler_kwargs,
    )
    taken = []
    for _ in range(count):
        taken.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return taken


def test_warmup_stable_decay_rises_stays_and_falls_to_the_least_rate() -> None:
    train = TrainConfig(
        lr=1.0, schedule=Schedule.warmup_stable_decay, warmup_fraction=0.2, decay_fraction=0.4, min_lr=0.5
    )
    # two steps up from min_lr, four at the top, four along half a cosine from 1 to 0.5
    fall = [0.5 + 0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates(train, 10) == pytest.approx([0.5, 0.75, 1, 1, 1, 1, *fall])


def test_cosine_ends_at_its_least_rate() -> None:
    train = TrainConfig(lr=1.0, schedule=Schedule.cosine_with_min_lr, warmup_fraction=0, min_lr=0.25)
    found = rates(train, 100)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.625)
    assert found[-1] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("schedule", [item for item in Schedule if item is not Schedule.warmup_stable_decay])
@pytest.mark.parametrize("count", [1, 2])
def test_the_shortest_run_learns_something(schedule: Schedule, count: int) -> None:
    assert max(rates(TrainConfig(lr=1.0, schedule=schedule, min_lr=0.1), count)) > 0.1


def test_warm_up_and_decay_share_the_steps_of_a_short_run() -> None:
    train = TrainConfig(schedule=Schedule.warmup_stable_decay, warmup_fraction=0.5, decay_fraction=0.5)
    found = schedule_options(train, 3)
    assert (found["warmup_steps"], found["lr_scheduler_kwargs"]["num_decay_steps"]) == (2, 1)


def test_a_run_is_as_long_as_its_epochs_or_its_steps() -> None:
    found = [
        steps(100, TrainConfig(global_batch=16, epochs=epochs, max_steps=most))
        for epochs, most in [(1.0, None), (0.5, None), (2.5, None), (1.0, 40)]
    ]
    assert found == [6, 3, 15, 40]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["schedule=warmup_stable_decay"],
            "train.decay_fraction is not set; train.schedule=warmup_stable_decay needs",
        ),
        (
            ["schedule=cosine_with_min_lr"],
            "train.min_lr is not set; train.schedule=cosine_with_min_lr needs it",
        ),
        (["decay_fraction=0.1"], "train.decay_fraction is set, but train.schedule=cosine does not use it"),
        (["min_lr=1e-5"], "train.min_lr is set, but train.schedule=cosine does not use it"),
        (
            ["schedule=cosine_with_min_lr", "min_lr=1"],
            "train.min_lr=1.0 must be 0 or above and below train.lr=0.002",
        ),
        (["schedule=warmup_stable_decay", "decay_fraction=0"], "train.decay_fraction=0.0 must be above 0"),
        (["schedule=warmup_stable_decay", "decay_fraction=.96"], "are longer than the run"),
        (["lr=2e4"], "train.lr=20000.0 moves every weight by about as much a step; use one far below 1"),
        (["warmup_fraction=1"], "train.warmup_fraction=1.0 never reaches train.lr"),
        (["lora.dropout=1"], "train.lora.dropout=1.0 drops every input"),
        (["lora.layers=[]"], "train.lora.layers is empty"),
        (["lora.layers=[0,-1]"], "train.lora.layers: -1 is no layer"),
        (
            ["lora.rank_pattern={q_proj:1}"],
            "no entry q_proj yet; on the command line ++train.lora.rank_pattern=",
        ),
        (["+lora.rank_pattern.q_proj=0"], "train.lora.rank_pattern: q_proj is 0; it must be above 0"),
        (["++lora.alpha_pattern={q_**:1}"], "train.lora.alpha_pattern: 'q_**' is no pattern"),
        (["++lora.rank_pattern={q_proj:many}"], "could not be converted to Integer"),
        (["patience=2"], "train.patience is set, but nothing is validated; set train.validate_every_steps"),
        (["validate_every_steps=0"], "train.validate_every_steps=0 must be above 0, or null"),
        (["validate_every_steps=5", "patience=-1"], "train.patience=-1 must be above 0, or null"),
        (["min_delta=-1"], "train.min_delta=-1.0 must be 0 or above and finite"),
        (["best_metric=bleu"], "expected one of [validation_loss, exact_match]"),
    ],
)
def test_what_cannot_work_is_one_line(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load([DEMO, *(re.sub(r"^(\+*)", r"\1train.", item) for item in overrides)])
    (line,) = error.value.problems
    assert told in line


def test_each_setting_can_be_given_on_the_command_line() -> None:
    given: dict[str, Any] = {
        "schedule": "warmup_stable_decay",
        "decay_fraction": "0.2",
        "validate_every_steps": "10",
        "patience": "3",
        "lora.dora": "true",
        "lora.layers": "[0,1]",
    }
    patterns = "++train.lora.rank_pattern={layers.0.mlp.up_proj:32,q_proj:8}"
    train = load([DEMO, patterns, *(f"train.{key}={value}" for key, value in given.items())]).train
    assert train.lora.rank_pattern == {"layers.0.mlp.up_proj": 32, "q_proj": 8}
    assert (train.lora.layers, train.lora.dora, train.patience) == ([0, 1], True, 3)
