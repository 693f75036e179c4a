"""The learning rate over the steps, as transformers takes it."""

import math
from typing import Any

from finetune.config.schema import Schedule, TrainConfig


def schedule_options(train: TrainConfig, steps: int) -> dict[str, Any]:
    """TrainingArguments' fields for the schedule of a run of `steps` optimizer steps.

    The warm-up leaves at least one step: its own first step has a learning rate of 0.
    """
    warmup = min(math.ceil(steps * train.warmup_fraction), steps - 1)
    return {
        "lr_scheduler_type": train.schedule.name,
        "warmup_steps": warmup,
        "lr_scheduler_kwargs": _own_options(train, steps, warmup),
    }


def _own_options(train: TrainConfig, steps: int, warmup: int) -> dict[str, Any]:
    if train.schedule is Schedule.cosine_with_min_lr:
        return {"min_lr": train.min_lr}
    if train.schedule is Schedule.warmup_stable_decay:
        decay = min(math.ceil(steps * (train.decay_fraction or 0.0)), steps - warmup)
        return {"num_decay_steps": decay, "min_lr_ratio": (train.min_lr or 0.0) / train.lr}
    return {}
