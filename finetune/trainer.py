"""TRL's SFTTrainer, set up from the config: what is ours is the order of the rows and the precision."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft.tuners.lora import LoraLayer
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.models import enable_selective_activation_checkpointing

from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, Optimizer, TrainConfig
from finetune.console import say
from finetune.dataset import TrainingRows, encode_rows
from finetune.dora import start_at_the_base, use_exact_dora
from finetune.errors import RefusedError
from finetune.loss import score_trained_positions_only
from finetune.methods import lora_config, require_targets, sort_targets
from finetune.model import ADAPTER, Loaded, load_base, quantised_modules
from finetune.rows import read_rows
from finetune.run_log import RunLog
from finetune.schedules import schedule_options
from finetune.tracking import Tracker


def train_adapter(run: RunConfig, data: Artifact, pinned: Artifact, output: Output, tracker: Tracker) -> None:
    """Load, train, save: the adapter, log.jsonl, counts and facts of one run go into `output`."""
    loaded = load_base(pinned, run.model, run.hardware)
    rows = encode_rows(read_rows(data.path("train.jsonl")), loaded.renderer, run.train)
    counts = rows.counts
    say(
        f"{counts['rows']} rows, {counts['steps']} steps of {run.train.global_batch}; "
        f"{counts['trained_tokens']} of {counts['tokens']} tokens are answers and trained, "
        f"{counts['rows_too_long']} rows too long, {counts['rows_never_seen']} beyond the last step"
    )
    trainer = make_trainer(loaded, rows, run.train, run.hardware, output.folder)
    with output.append("log.jsonl") as stream:
        trainer.add_callback(RunLog(stream, tracker, counts["steps"]))
        trainer.train()
    require_finite(trainer.model)
    trainer.model.save_pretrained(output.path(ADAPTER))
    output.counts = dict(counts)
    output.facts = _facts(run, loaded, pinned, quantised_modules(trainer.model))
    tracker.log({f"count/{key}": value for key, value in counts.items()})


def _facts(run: RunConfig, loaded: Any, pinned: Artifact, quantised: list[str]) -> dict[str, Any]:
    return {
        "base_repo": run.model.base.repo,
        "base_weights": pinned.manifest.content,
        "base_revision": pinned.manifest.config["base"].get("revision"),
        "quantised": quantised,
        "template": loaded.renderer.template_hash(),
        "seed": run.train.seed,
        "hardware": run.hardware.name,
    }


def make_trainer(
    loaded: Loaded, data: TrainingRows, train: TrainConfig, hardware: HardwareConfig, folder: Path
) -> Any:
    """A trainer whose trainable parameters are fp32 and whose batches follow `step_order`."""
    score_trained_positions_only()
    rows = [{"input_ids": data.rows[index].ids, "labels": data.rows[index].labels} for index in data.order]
    require_targets(loaded.model, train.lora)
    if train.checkpointing is Checkpointing.selective:
        # TRL 1.16 would wrap the PEFT model, whose own switch transformers 5.23 does not use
        enable_selective_activation_checkpointing(loaded.model)
    trainer = SFTTrainer(
        loaded.model,
        sft_config(train, hardware, data.counts["steps"], folder),
        train_dataset=Dataset.from_list(rows),
        peft_config=lora_config(train.lora, loaded.model),
        processing_class=loaded.tokenizer,
    )
    sort_targets(trainer.model)
    use_exact_dora(trainer.model)
    start_at_the_base(trainer.model)
    trainer.remove_callback(PrinterCallback)  # RunLog says the same in plain lines
    if hardware.device is Device.cpu:
        skip_lossless_casts(trainer.model)
    # TRL casts LoRA to bf16 on a quantised base and a resumed run to fp32: one precision for both
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def skip_lossless_casts(model: Any) -> None:
    """Stop PEFT from casting LoRA's input to fp32 where autocast casts it back to bf16 at once.

    PEFT skips that cast under autocast, but asks only for CUDA's (peft 0.21.2, lora/bnb.py). The values are the
    same; a CPU step takes 13 % less time.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def sft_config(train: TrainConfig, hardware: HardwareConfig, steps: int, folder: Path) -> SFTConfig:
    """TRL's settings for ours: bf16 autocast, and on CUDA the paged 8-bit optimizer."""
    cuda = hardware.device is Device.cuda
    optimizer = train.optimizer
    if optimizer is Optimizer.auto:
        optimizer = Optimizer.paged_adamw_8bit if cuda else Optimizer.adamw_torch
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=train.micro_batch,
        gradient_accumulation_steps=train.global_batch // train.micro_batch,
        train_sampling_strategy="sequential",
        learning_rate=train.lr,
        **schedule_options(train, steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=optimizer.name,
        seed=train.seed,
        bf16=True,
        use_cpu=not cuda,
        max_length=None,  # too long rows were counted and refused before; TRL would cut them without a word
        activation_checkpointing=train.checkpointing is not Checkpointing.none,
        activation_checkpointing_kwargs=checkpointing_options(train),
        gradient_checkpointing=False,
        padding_free=train.packing,
        logging_steps=train.log_every_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
    )


def checkpointing_options(train: TrainConfig) -> dict[str, Any] | None:
    """What transformers takes beside the switch; None where nothing is recomputed."""
    if train.checkpointing is Checkpointing.none:
        return None
    return {"every_n_layers": train.checkpoint_every, "offload": train.offload_activations}


def require_finite(model: Any) -> None:
    """Raise RefusedError where a trained parameter is no number: such an adapter must not be saved."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise RefusedError(f"{name} is not a number after training; lower train.lr or look at the rows")
