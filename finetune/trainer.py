"""TRL's SFTTrainer, set up from the config: what is ours is the order of the rows and the precision."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig
from trl.models import enable_selective_activation_checkpointing

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, Optimizer, TrainConfig
from finetune.dataset import TrainingRows
from finetune.dora import start_at_the_base, use_exact_dora
from finetune.exact_trainer import ExactTrainer
from finetune.fused import fuse_step
from finetune.fused.lora import cast_inputs, keep_weights
from finetune.loss import score_trained_positions_only
from finetune.methods import lora_config, require_targets
from finetune.model import Loaded
from finetune.packing import require_isolated_rows
from finetune.schedules import schedule_options


def make_trainer(
    loaded: Loaded, data: TrainingRows, train: TrainConfig, hardware: HardwareConfig, folder: Path
) -> ExactTrainer:
    """A trainer whose trainable parameters are fp32 and whose batches follow `step_order`."""
    score_trained_positions_only()
    rows = [{"input_ids": data.rows[index].ids, "labels": data.rows[index].labels} for index in data.order]
    require_targets(loaded.model, train.lora)
    if train.checkpointing is Checkpointing.selective:
        # TRL 1.16 would wrap the PEFT model, whose own switch transformers 5.23 does not use
        enable_selective_activation_checkpointing(loaded.model)
    trainer = ExactTrainer(
        loaded.model,
        sft_config(train, hardware, data.counts["steps"], folder),
        train_dataset=Dataset.from_list(rows),
        peft_config=lora_config(train.lora, loaded.model),
        processing_class=loaded.tokenizer,
        rows=data,
        train=train,
    )
    use_exact_dora(trainer.model)
    start_at_the_base(trainer.model)
    fuse_step(trainer.model, hardware.device)
    if train.packing:
        require_isolated_rows(trainer.model.get_base_model())
    trainer.remove_callback(PrinterCallback)  # RunLog says the same in plain lines
    if hardware.device is Device.cpu:
        cast_inputs(trainer.model, False)
        keep_weights(trainer.model)
    # TRL casts LoRA to bf16 on a quantised base and a resumed run to fp32: one precision for both
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


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
