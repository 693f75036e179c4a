"""Settings that are well typed and still cannot work, all found at once."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from finetune.config.schema import (
    Attention,
    BaseConfig,
    BaseKind,
    Device,
    Optimizer,
    RunConfig,
    SourceConfig,
    SourceKind,
    TrainConfig,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

POSITIVE = (
    "train.lr train.epochs train.global_batch train.micro_batch train.max_tokens train.max_grad_norm "
    "train.log_every_steps train.lora.rank train.lora.alpha data.min_label_rows data.near_duplicates.shingle_words "
    "data.near_duplicates.jaccard data.split.val_fraction data.split.test_fraction "
    "eval.resamples eval.batch_rows eval.max_new_tokens export.min_positions export.max_kl_over_floor"
).split()
SEEDS = ("train.seed", "data.seed", "eval.seed")
FRACTIONS = (
    "data.split.val_fraction data.split.test_fraction data.split.max_component_fraction data.max_dropped_fraction "
    "data.near_duplicates.jaccard train.warmup_fraction train.max_over_length_fraction train.lora.dropout "
    "eval.confidence"
).split()


def check(run: RunConfig) -> list[str]:
    """Every problem of the configuration: key, value, what is allowed, what to do. Empty: none."""
    return [
        *_ranges(run),
        *_seeds(run),
        *_not_negative(run),
        *_lists(run),
        *_names(run),
        *_kind("model.base", run.model.base, BASE_FIELDS[run.model.base.kind], _used(BASE_FIELDS.values())),
        *_kind(
            "data.source", run.data.source, SOURCE_FIELDS[run.data.source.kind], _used(SOURCE_FIELDS.values())
        ),
        *_batch(run.train),
        *_data(run),
        *_eval(run),
        *_device(run),
    ]


BASE_FIELDS = {BaseKind.wheel_gguf: {"package", "file"}, BaseKind.folder: {"path"}}
SOURCE_FIELDS = {
    SourceKind.licence_notices: {"package", "min_words", "max_words"},
    SourceKind.table: {"path", "text_field", "target_field", "group_field"},
}
OPTIONAL = {"group_field"}


def _used(groups: Iterable[set[str]]) -> set[str]:
    return set().union(*groups)


def _kind(key: str, section: BaseConfig | SourceConfig, needed: set[str], known: set[str]) -> Iterator[str]:
    """Fields that the kind needs and lacks, or has and does not use."""
    kind = section.kind.name
    for name in sorted(known):
        given = getattr(section, name) is not None
        if name in needed and not given and name not in OPTIONAL:
            yield f"{key}.{name} is not set; {key}.kind={kind} needs it"
        if given and name not in needed:
            yield f"{key}.{name} is set, but {key}.kind={kind} does not use it; remove it"


def _value(run: RunConfig, key: str) -> Any:
    node: Any = run
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _ranges(run: RunConfig) -> Iterator[str]:
    for key in POSITIVE:
        if not 0 < _value(run, key) < math.inf:
            yield f"{key}={_value(run, key)} must be above 0 and finite"
    for key in FRACTIONS:
        if not 0 <= _value(run, key) <= 1:
            yield f"{key}={_value(run, key)} must lie between 0 and 1"


def _seeds(run: RunConfig) -> Iterator[str]:
    for key in SEEDS:
        if not 0 <= _value(run, key) < 2**32:
            yield f"{key}={_value(run, key)} must be a whole number from 0 to 4294967295"


def _not_negative(run: RunConfig) -> Iterator[str]:
    for key in ("train.weight_decay", "eval.min_gain"):
        if not 0 <= _value(run, key) < math.inf:
            yield f"{key}={_value(run, key)} must be 0 or above"


def _lists(run: RunConfig) -> Iterator[str]:
    if not run.train.lora.targets:
        yield "train.lora.targets is empty, so nothing would be trained; use [all-linear]"
    if run.data.labels is not None and not run.data.labels:
        yield "data.labels is empty, so every row would be refused; list the labels, or set null for any"


def _names(run: RunConfig) -> Iterator[str]:
    for key in ("name", "data.name", "model.name", "model.export_name"):
        if not NAME.fullmatch(_value(run, key)):
            yield f"{key}={_value(run, key)} becomes a folder; use letters, digits, '.', '_' and '-'"


def _batch(train: TrainConfig) -> Iterator[str]:
    if train.micro_batch > 0 and train.global_batch % train.micro_batch:
        nearest = train.global_batch // train.micro_batch * train.micro_batch or train.micro_batch
        yield (
            f"train.global_batch={train.global_batch} is not a multiple of train.micro_batch={train.micro_batch}; "
            f"use train.global_batch={nearest}"
        )
    if train.max_steps is not None and train.max_steps <= 0:
        yield f"train.max_steps={train.max_steps} must be above 0, or null for whole epochs"


def _data(run: RunConfig) -> Iterator[str]:
    split, source = run.data.split, run.data.source
    if split.val_fraction + split.test_fraction >= 1:
        yield (
            f"data.split.val_fraction={split.val_fraction} and data.split.test_fraction={split.test_fraction} "
            "leave nothing to train on; their sum must be below 1"
        )
    if run.data.max_rows is not None and run.data.max_rows <= 0:
        yield f"data.max_rows={run.data.max_rows} must be above 0, or null for all rows"
    if "{text}" not in run.data.prompt:
        yield "data.prompt has no {text}, the place where the document's text goes; add it"
    if source.min_words is not None and source.max_words is not None and source.min_words > source.max_words:
        yield (
            f"data.source.min_words={source.min_words} is above data.source.max_words={source.max_words}; "
            "no text can have so many words"
        )


def _eval(run: RunConfig) -> Iterator[str]:
    if run.eval.primary not in run.eval.tasks:
        known = ", ".join(run.eval.tasks) or "none"
        yield f"eval.primary={run.eval.primary} is not one of eval.tasks ({known})"
    if run.eval.confidence == 1:
        yield f"eval.confidence={run.eval.confidence} must be below 1; no finite interval is certain"
    if 0 < run.eval.resamples < 100:
        yield f"eval.resamples={run.eval.resamples} is too few for an interval's ends; use at least 100"


def _device(run: RunConfig) -> Iterator[str]:
    if run.hardware.device is Device.cuda:
        return
    if run.train.optimizer is Optimizer.paged_adamw_8bit:
        yield (
            f"train.optimizer=paged_adamw_8bit pages between GPU and host, but hardware={run.hardware.name} "
            "has no GPU; use train.optimizer=auto"
        )
    if run.model.attention is Attention.flash_attention_2:
        yield f"model.attention=flash_attention_2 needs a GPU; on {run.hardware.name} use model.attention=auto"
