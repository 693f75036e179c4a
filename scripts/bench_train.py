"""Training speed and losses beside stock TRL, on the demo's rows.

    make prepare CONF=licences_smollm135m        # once
    .venv/bin/python scripts/bench_train.py      # about 12 minutes on 2 cores

Stock is `SFTTrainer` on the same NF4 base with the same rows in the same order, batch, rank, dtype, optimizer
and `activation_checkpointing=False`, everything else at its default. Each measurement is a process of its own;
stock and ours alternate, so that a noisy neighbour meets both. Speed counts tokens that are no padding and
leaves out the first step.

The losses are compared with a stock trainer whose trainables were cast to fp32, since stock's bf16 trainables
round otherwise; once computing in fp32, where a difference is a mistake, and once in bf16 as trained, beside
what stock differs from itself when it runs on one thread: sums in another order, nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

ROUNDS, SPEED_STEPS, LOSS_STEPS = 3, 8, 10
VARIANTS = ("ours", "stock", "stock_fp32")
MIN_SPEED, MAX_LOSS_DIFFERENCE = 2.0, 2e-3


def measure(variant: str, steps: int, compute: str) -> dict[str, Any]:
    """Train `steps` steps in this process: tokens/s after the first step, and every step's loss."""
    from transformers import TrainerCallback

    trainer, lengths = build(variant, steps)
    if compute == "fp32":
        compute_in_fp32(trainer)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.monotonic())

    trainer.add_callback(Clock())
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    batch = trainer.args.per_device_train_batch_size
    return {"tokens_per_s": sum(lengths[batch : steps * batch]) / (ends[-1] - ends[0]), "losses": losses}


def build(variant: str, steps: int) -> tuple[Any, list[int]]:
    """The trainer of a variant, and the lengths of its rows in training order."""
    import torch

    from finetune import artifacts, base
    from finetune.config import load
    from finetune.dataset import encode_rows
    from finetune.model import load_base
    from finetune.rows import read_rows
    from finetune.trainer import make_trainer

    run = load(["experiment=licences_smollm135m", f"train.max_steps={steps}", "train.log_every_steps=1"])
    data = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, None)
    loaded = load_base(base.open_base(run), run.model, run.hardware)
    rows = encode_rows(read_rows(data.path("train.jsonl")), loaded.renderer, run.train)
    if variant != "ours":
        torch.backends.cuda.enable_flash_sdp(True)  # torch's default, which loading a base on a CPU turns off
    make = make_trainer if variant == "ours" else stock_trainer
    trainer = make(loaded, rows, run.train, run.hardware, Path(tempfile.mkdtemp()))
    if variant == "stock_fp32":
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer, [len(ids) for ids in trainer.train_dataset["input_ids"]]


def compute_in_fp32(trainer: Any) -> None:
    """The same NF4 weights, multiplied in fp32 without autocast."""
    import bitsandbytes as bnb
    import torch

    for module in trainer.model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = torch.float32
            module.weight.quant_state.dtype = torch.float32
    for parameter in trainer.model.parameters():
        if parameter.dtype is torch.bfloat16:
            parameter.data = parameter.data.float()
    trainer.accelerator.native_amp = False


def stock_trainer(loaded: Any, data: Any, train: Any, hardware: Any, folder: Path) -> Any:
    """SFTTrainer as its documentation sets it up, on our rows in our order."""
    from datasets import Dataset
    from trl import SFTTrainer

    from finetune.methods import lora_config
    from finetune.trainer import sft_config

    rows = [{"input_ids": data.rows[index].ids, "labels": data.rows[index].labels} for index in data.order]
    return SFTTrainer(
        loaded.model,
        sft_config(train, hardware, data.counts["steps"], folder),
        train_dataset=Dataset.from_list(rows),
        peft_config=lora_config(train.lora, loaded.model),
        processing_class=loaded.tokenizer,
    )


def in_process(variant: str, steps: int, compute: str = "bf16", threads: int | None = None) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--one", variant, "--steps", str(steps), "--compute", compute]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def furthest(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The largest difference of two runs' losses at the same step."""
    return max(abs(a - b) for a, b in zip(first["losses"], second["losses"], strict=True))


def compare_speed() -> float:
    """Median of ours / stock over the rounds, each printed."""
    ratios = []
    for number in range(ROUNDS):
        stock, ours = in_process("stock", SPEED_STEPS), in_process("ours", SPEED_STEPS)
        ratios.append(ours["tokens_per_s"] / stock["tokens_per_s"])
        print(
            f"round {number + 1}: stock {stock['tokens_per_s']:.0f}, ours {ours['tokens_per_s']:.0f} tokens/s, "
            f"{ratios[-1]:.2f}x",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(
        f"speed: {ratio:.2f}x stock (from {min(ratios):.2f} to {max(ratios):.2f}); must be at least {MIN_SPEED}"
    )
    return ratio


def compare_losses() -> float:
    """The largest difference of the losses computed in fp32; the bf16 ones printed beside their floor."""
    exact = furthest(in_process("stock_fp32", LOSS_STEPS, "fp32"), in_process("ours", LOSS_STEPS, "fp32"))
    print(
        f"losses of {LOSS_STEPS} steps in fp32: at most {exact:.1e} apart; may be {MAX_LOSS_DIFFERENCE}",
        flush=True,
    )
    stock = in_process("stock_fp32", LOSS_STEPS)
    ours = furthest(stock, in_process("ours", LOSS_STEPS))
    floor = furthest(stock, in_process("stock_fp32", LOSS_STEPS, threads=1))
    print(
        f"losses of {LOSS_STEPS} steps in bf16: at most {ours:.1e} apart; stock on one thread from itself {floor:.1e}"
    )
    return exact


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=SPEED_STEPS)
    parser.add_argument("--compute", choices=["bf16", "fp32"], default="bf16")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.steps, arguments.compute)))
        return 0
    print(describe(), flush=True)
    return 0 if compare_speed() >= MIN_SPEED and compare_losses() <= MAX_LOSS_DIFFERENCE else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
