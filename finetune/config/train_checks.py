"""Adapters, schedules and validations that are well typed and still cannot work."""

import math
import re
from collections.abc import Iterator, Mapping

from finetune.config.schema import LoraSettings, Schedule, TrainConfig

HIGHEST_LR = 1.0
"""Adam moves each weight by about lr a step, whatever the gradient (Kingma and Ba 2015, section 2.1)."""


def train_problems(train: TrainConfig) -> Iterator[str]:
    """Every problem of the adapter's settings, the schedule and the validation: key, value, what is allowed."""
    yield from _lora(train.lora)
    if HIGHEST_LR < train.lr < math.inf:
        yield f"train.lr={train.lr} moves every weight by about as much a step; use one far below 1, such as 2e-4"
    yield from _schedule(train)
    yield from _validation(train)


def _lora(lora: LoraSettings) -> Iterator[str]:
    if lora.dropout == 1:
        yield "train.lora.dropout=1.0 drops every input of the adapter, so nothing is learned; use one below 1"
    if lora.layers is not None and not lora.layers:
        yield "train.lora.layers is empty, so nothing would be trained; list layers, or set null for all"
    for index in lora.layers or []:
        if index < 0:
            yield f"train.lora.layers: {index} is no layer; the first one is 0"
    yield from _pattern("rank_pattern", lora.rank_pattern)
    yield from _pattern("alpha_pattern", lora.alpha_pattern)


def _pattern(key: str, values: Mapping[str, int]) -> Iterator[str]:
    for pattern, value in values.items():
        if value <= 0:
            yield f"train.lora.{key}: {pattern} is {value}; it must be above 0"
        if not pattern or not _compiles(pattern):
            yield f"train.lora.{key}: {pattern!r} is no pattern; use the end of a module's name such as q_proj"


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


USED_BY = {
    "decay_fraction": (Schedule.warmup_stable_decay,),
    "min_lr": (Schedule.warmup_stable_decay, Schedule.cosine_with_min_lr),
}
NEEDED = {"decay_fraction": Schedule.warmup_stable_decay, "min_lr": Schedule.cosine_with_min_lr}


def _schedule(train: TrainConfig) -> Iterator[str]:
    name = train.schedule.name
    for key, schedules in USED_BY.items():
        given = getattr(train, key) is not None
        if given and train.schedule not in schedules:
            yield f"train.{key} is set, but train.schedule={name} does not use it; remove it"
        if not given and train.schedule is NEEDED[key]:
            yield f"train.{key} is not set; train.schedule={name} needs it"
    if train.min_lr is not None and not 0 <= train.min_lr < train.lr:
        yield f"train.min_lr={train.min_lr} must be 0 or above and below train.lr={train.lr}"
    yield from _phases(train.warmup_fraction, train.decay_fraction)


def _phases(warmup: float, decay: float | None) -> Iterator[str]:
    if warmup == 1:
        yield "train.warmup_fraction=1.0 never reaches train.lr; use a share well below 1"
    if decay is not None and not 0 < decay <= 1:
        yield f"train.decay_fraction={decay} must be above 0 and at most 1"
    elif decay is not None and warmup + decay > 1:
        yield (
            f"train.warmup_fraction={warmup} and train.decay_fraction={decay} are longer than the run; "
            "together they must be at most 1"
        )


def _validation(train: TrainConfig) -> Iterator[str]:
    for key in ("validate_every_steps", "validation_rows", "patience"):
        value = getattr(train, key)
        if value is not None and value <= 0:
            yield f"train.{key}={value} must be above 0, or null"
        if value is not None and train.validate_every_steps is None:
            yield f"train.{key} is set, but nothing is validated; set train.validate_every_steps too"
    if not 0 <= train.min_delta < math.inf:
        yield f"train.min_delta={train.min_delta} must be 0 or above and finite"
