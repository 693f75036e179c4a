"""Settings that are well typed and still cannot work, all found at once."""

import math
import re
from collections.abc import Iterator
from typing import Any

from finetune.config.data_checks import data_problems, kind_problems
from finetune.config.eval import Arm
from finetune.config.eval_checks import eval_problems
from finetune.config.model import Attention, BaseKind
from finetune.config.plan import Device
from finetune.config.schema import Checkpointing, Optimizer, RunConfig, TrainConfig
from finetune.config.serve_checks import serve_problems
from finetune.config.train_checks import train_problems

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

POSITIVE = (
    "train.lr train.epochs train.global_batch train.micro_batch train.max_tokens train.max_grad_norm "
    "train.log_every_steps train.save_every_minutes train.keep_checkpoints train.spike_deviations "
    "train.checkpoint_every train.lora.rank train.lora.alpha data.min_label_rows "
    "data.near_duplicates.shingle_words "
    "data.near_duplicates.jaccard data.split.val_fraction data.split.test_fraction data.limits.file_mib "
    "data.limits.seconds data.limits.memory_mib data.limits.pages data.limits.characters data.windows.max_chars "
    "data.contamination.ngram_words data.contamination.drop_coverage "
    "eval.resamples eval.batch_rows eval.batch_tokens eval.max_new_tokens eval.forgetting.max_new_tokens "
    "eval.shots eval.shot_tokens export.min_positions export.free_positions export.auto_rows "
    "export.max_kl_over_floor "
    "show.rows show.characters ask.characters review.rows"
).split()
SEEDS = ("train.seed", "data.seed", "eval.seed")
FRACTIONS = (
    "data.split.val_fraction data.split.test_fraction data.split.max_component_fraction data.max_dropped_fraction "
    "data.max_lost_span_fraction "
    "data.near_duplicates.jaccard data.windows.keep_empty_fraction data.contamination.review_coverage "
    "data.contamination.boilerplate_fraction train.warmup_fraction train.max_over_length_fraction "
    "train.max_marked_fraction train.max_untrained_fraction train.lora.dropout "
    "eval.confidence plan.memory_margin plan.speed_margin export.max_top1_below_floor export.min_fp32_top1"
).split()


def check(run: RunConfig) -> list[str]:
    """Every problem of the configuration: key, value, what is allowed, what to do. Empty: none."""
    return [
        *_ranges(run),
        *_seeds(run),
        *_not_negative(run),
        *_lists(run),
        *_names(run),
        *kind_problems("model.base", run.model.base, BASE_FIELDS, set()),
        *data_problems(run.data),
        *_batch(run.train),
        *train_problems(run.train),
        *_mix(run.train),
        *_memory_savers(run),
        *eval_problems(run.eval),
        *serve_problems(run.serve),
        *_device(run),
        *_hardware(run),
        *_served(run),
        *_review(run),
    ]


PAGED = (Optimizer.paged_adamw_8bit, Optimizer.paged_adamw_32bit)
BASE_FIELDS = {BaseKind.wheel_gguf: {"package", "file"}, BaseKind.folder: {"path"}}


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
    for key in (
        "train.weight_decay",
        "eval.min_gain",
        "eval.examples",
        "eval.costs.price_per_hour",
        "eval.costs.api_input_per_million",
        "eval.costs.api_output_per_million",
        "data.windows.overlap_chars",
        "export.use.monthly_users",
    ):
        if not 0 <= (_value(run, key) or 0) < math.inf:
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
    for key, otherwise in (("max_steps", "whole epochs"), ("save_every_steps", "saving by the clock alone")):
        value = getattr(train, key)
        if value is not None and value <= 0:
            yield f"train.{key}={value} must be above 0, or null for {otherwise}"


def _mix(train: TrainConfig) -> Iterator[str]:
    for name, weight in train.mix.items():
        if not 0 < weight < math.inf:
            yield f"train.mix.{name}={weight} must be above 0 and finite; leave {name} out to learn nothing from it"


def _memory_savers(run: RunConfig) -> Iterator[str]:
    train = run.train
    if train.checkpointing is Checkpointing.none and train.offload_activations:
        yield "train.offload_activations=true moves what checkpointing keeps; set train.checkpointing=full"
    if train.offload_activations and run.hardware.device is Device.cpu:
        yield (
            f"train.offload_activations=true moves activations off the GPU, but hardware={run.hardware.name} has "
            "none; set it to false"
        )


def _device(run: RunConfig) -> Iterator[str]:
    if run.hardware.workers is not None and run.hardware.workers <= 0:
        yield f"hardware.workers={run.hardware.workers} must be above 0, or null for one a core"
    if run.hardware.device is Device.cuda:
        return
    if run.train.optimizer in PAGED:
        yield (
            f"train.optimizer={run.train.optimizer.name} pages between GPU and host, but hardware={run.hardware.name} "
            "has no GPU; use train.optimizer=auto"
        )
    if run.model.attention is Attention.flash_attention_2:
        yield f"model.attention=flash_attention_2 needs a GPU; on {run.hardware.name} use model.attention=auto"


def _served(run: RunConfig) -> Iterator[str]:
    if Arm.served in run.eval.arms and run.serve.url is None:
        yield "eval.arms names served, and serve.url is not set; give it the endpoint's URL"


def _review(run: RunConfig) -> Iterator[str]:
    if run.review.against == "adapter" or not NAME.fullmatch(run.review.against):
        yield f"review.against={run.review.against} must be another arm of the report than the adapter, such as base"


FACTS = "memory_gib bf16_tflops bandwidth_gb_s link_gb_s tdp_w workspace_mib".split()


def _hardware(run: RunConfig) -> Iterator[str]:
    for key in FACTS:
        value = getattr(run.hardware, key)
        if value is not None and not 0 < value < math.inf:
            yield f"hardware.{key}={value} must be above 0 and finite"
    if run.hardware.device is Device.cuda and run.hardware.memory_gib is None:
        yield (
            f"hardware.memory_gib is null for {run.hardware.name}; state what its driver reports, or choose another "
            "record of conf/hardware"
        )
    for key in ("plan.gpus", "plan.serve_context"):
        if not 0 < _value(run, key) < math.inf:
            yield f"{key}={_value(run, key)} must be above 0"
    for key in ("plan.price_per_gpu_hour", "plan.price_per_kwh", "plan.api_price_per_million_tokens"):
        if not 0 <= (_value(run, key) or 0) < math.inf:
            yield f"{key}={_value(run, key)} must be 0 or above, or null where it is not known"
