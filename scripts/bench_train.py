"""Training speed, memory and losses beside stock TRL, on the demo's rows.

    make prepare CONF=licences_smollm135m        # once
    .venv/bin/python scripts/bench_train.py      # about 20 minutes on 2 cores

Stock is `SFTTrainer` on the same NF4 base with the same rows in the same order, batch, rank, dtype, optimizer
and `activation_checkpointing=False`, everything else at its default. Ours runs with its log, guards and signals as
`make train` does; once more with full recomputation. Each measurement is a process of its own; within a round the
contestants alternate, so that a noisy neighbour meets all. Speed counts tokens that are no padding and leaves out the
first step. Memory is the highest resident size of the whole process while training (VmHWM).

The share of the machine's arithmetic is that of a bf16 product (2048 x 4096 x 4096), timed in the same process right
before and after; counted is only what the step needs (finetune/flops.py). Overhead is the part of a step outside of
forward, backward and the optimizer.

The losses are compared with a stock trainer whose trainables were cast to fp32, since stock's bf16 trainables
round otherwise; once computing in fp32, where a difference is a mistake, and once in bf16 as trained, beside how far
each of the two is from the fp32 run: what rounding alone does.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

ROUNDS, SPEED_STEPS, LOSS_STEPS = 3, 8, 10
VARIANTS = ("ours", "recomputed", "stock", "stock_fp32")
MAX_LOSS_DIFFERENCE, MAX_MEAN_DIFFERENCE = 2e-3, 1e-2
LEAST = {
    "speed": 2.5,
    "speed, recomputed": 1.4,
    "share of the machine's bf16 product": 0.65,
}
MOST = {
    "memory": 0.85,
    "memory, recomputed": 0.6,
    "overhead": 0.03,
}
PRODUCT = (2048, 4096, 4096)


def measure(variant: str, steps: int, compute: str) -> dict[str, Any]:
    """Train `steps` steps in this process: tokens/s and FLOP/s after the first, overhead, memory, every step's loss."""
    from finetune.peak_memory import peak_bytes, reset_peak

    trainer, lengths, flops = build(variant, steps)
    if compute == "fp32":
        compute_in_fp32(trainer)
    clock = clocked(trainer)
    before = product_flops()
    reset_peak(cuda=False)
    trainer.train()
    seconds, batch = clock.ends[-1] - clock.ends[0], trainer.run_batch
    product = (before + product_flops()) / 2
    return {
        "tokens_per_s": sum(lengths[batch : steps * batch]) / seconds,
        "share": flops(batch, steps * batch) / seconds / product,
        "product_gflops": product / 1e9,
        "overhead": 1 - clock.working / seconds,
        "peak_gib": (peak_bytes(cuda=False) or 0) / 2**30,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }


def product_flops() -> float:
    """FLOP/s of a bf16 product, the best of five."""
    import torch

    rows, inner, columns = PRODUCT
    left, right = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    best = float("inf")
    for _ in range(5):
        began = time.monotonic()
        left @ right
        best = min(best, time.monotonic() - began)
    return 2 * rows * inner * columns / best


class Clock:
    """When steps end, and how long after the first one forward, backward and the optimizer worked."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.working = 0.0

    def timed(self, work: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.monotonic()
            found = work(*arguments, **options)
            if self.ends:
                self.working += time.monotonic() - began
            return found

        return run


def clocked(trainer: Any) -> Clock:
    """A clock on the trainer's own steps."""
    from transformers import TrainerCallback

    clock = Clock()

    class Ends(TrainerCallback):
        def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
            optimizer.step = clock.timed(optimizer.step)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(time.monotonic())

    trainer.training_step = clock.timed(trainer.training_step)
    trainer._clip_grad_norm = clock.timed(trainer._clip_grad_norm)
    trainer.add_callback(Ends())
    return clock


def build(variant: str, steps: int) -> tuple[Any, list[int], Any]:
    """The trainer of a variant, the lengths of its rows in training order, and what a range of these needs in FLOPs."""
    import torch

    from finetune import artifacts, base
    from finetune.chat import IGNORE
    from finetune.config import load
    from finetune.dataset import encode_rows
    from finetune.flops import needed_flops
    from finetune.kept_base import training_base
    from finetune.model import load_base
    from finetune.rows import read_rows
    from finetune.trainer import make_trainer

    settings = [f"train.max_steps={steps}", "train.log_every_steps=1"]
    settings += ["train.checkpointing=full"] if variant == "recomputed" else []
    run = load(["experiment=licences_smollm135m", *settings])
    data = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, None)
    loaded = load_base(training_base(run, base.open_base(run)).read, run.model, run.hardware)
    rows = encode_rows(read_rows(data.path("train.jsonl")), loaded.renderer, run.train)
    folder = Path(tempfile.mkdtemp())
    if variant.startswith("stock"):
        torch.backends.cuda.enable_flash_sdp(True)  # torch's default, which loading a base on a CPU turns off
        trainer = stock_trainer(loaded, rows, run.train, run.hardware, folder)
    else:
        trainer = make_trainer(loaded, rows, run.train, run.hardware, folder)
        secure(trainer, rows, run, folder)
    if variant == "stock_fp32":
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.run_batch = run.train.global_batch
    costs, order = needed_flops(trainer.model), [rows.rows[index] for index in rows.order]
    each = [costs.row(len(row.ids), sum(label != IGNORE for label in row.labels)) for row in order]
    return trainer, [len(row.ids) for row in order], lambda start, end: sum(each[start:end])


def secure(trainer: Any, rows: Any, run: Any, folder: Path) -> None:
    """The log, guards and checkpoints that a run of `make train` has."""
    from finetune.checkpoint import Checkpoints
    from finetune.exact_trainer import Safety
    from finetune.expected import expected_of
    from finetune.flops import needed_flops
    from finetune.guards import SpikeWatch
    from finetune.preemption import Preemption
    from finetune.run_log import RunLog
    from finetune.tracking import SilentTracker

    expected = expected_of(rows, run.train.global_batch, needed_flops(trainer.model), run.hardware, None)
    log = RunLog((folder / "log.jsonl").open("a"), SilentTracker(), expected)
    store = Checkpoints(folder / "checkpoints", "bench", run.train.keep_checkpoints)
    trainer.secure(Safety(store, Preemption(), log, {"spikes": SpikeWatch(run.train.spike_deviations)}))
    trainer.add_callback(log)


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


def in_process(variant: str, steps: int, compute: str = "bf16") -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--one", variant, "--steps", str(steps), "--compute", compute]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def furthest(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The largest difference of two runs' losses at the same step."""
    return max(abs(a - b) for a, b in zip(first["losses"], second["losses"], strict=True))


def mean_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The mean difference of two runs' losses at the same step."""
    pairs = list(zip(first["losses"], second["losses"], strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def compare_speed() -> bool:
    """Ratios of each round and their medians beside the bars, printed; whether all are met."""
    rounds = []
    for number in range(ROUNDS):
        found = {variant: in_process(variant, SPEED_STEPS) for variant in ("stock", "ours", "recomputed")}
        rounds.append(ratios(**found))
        told = ", ".join(
            f"{name} {of['tokens_per_s']:.0f} tokens/s {of['peak_gib']:.2f} GiB" for name, of in found.items()
        )
        print(
            f"round {number + 1}: {told}; product {found['ours']['product_gflops']:.0f} GFLOP/s", flush=True
        )
    met = True
    for name in rounds[0]:
        values = [of[name] for of in rounds]
        median, bar = statistics.median(values), LEAST.get(name) or MOST[name]
        passed = median >= bar if name in LEAST else median <= bar
        met &= passed
        sense, verdict = "at least" if name in LEAST else "at most", "" if passed else ": NOT met"
        print(f"{name}: {median:.3g} ({min(values):.3g} to {max(values):.3g}), {sense} {bar}{verdict}")
    return met


def ratios(stock: dict[str, Any], ours: dict[str, Any], recomputed: dict[str, Any]) -> dict[str, float]:
    """A round by the names of the bars."""
    return {
        "speed": ours["tokens_per_s"] / stock["tokens_per_s"],
        "memory": ours["peak_gib"] / stock["peak_gib"],
        "speed, recomputed": recomputed["tokens_per_s"] / stock["tokens_per_s"],
        "memory, recomputed": recomputed["peak_gib"] / stock["peak_gib"],
        "share of the machine's bf16 product": ours["share"],
        "overhead": ours["overhead"],
    }


def compare_losses() -> bool:
    """The losses computed in fp32 beside the bars; the bf16 ones printed beside their floor."""
    theirs, ours = in_process("stock_fp32", LOSS_STEPS, "fp32"), in_process("ours", LOSS_STEPS, "fp32")
    exact, mean = furthest(theirs, ours), mean_difference(theirs, ours)
    print(
        f"losses of {LOSS_STEPS} steps in fp32: at most {exact:.1e} apart, may be {MAX_LOSS_DIFFERENCE}; "
        f"mean {mean:.1e}, may be {MAX_MEAN_DIFFERENCE}",
        flush=True,
    )
    stock, ours = in_process("stock_fp32", LOSS_STEPS), in_process("ours", LOSS_STEPS)
    print(
        f"in bf16: at most {furthest(stock, ours):.1e} apart, mean {mean_difference(stock, ours):.1e}; "
        f"from the same run in fp32 ours is {furthest(theirs, ours):.1e} and {mean_difference(theirs, ours):.1e}, "
        f"stock {furthest(theirs, stock):.1e} and {mean_difference(theirs, stock):.1e}"
    )
    return exact <= MAX_LOSS_DIFFERENCE and mean <= MAX_MEAN_DIFFERENCE


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
    return 0 if compare_speed() & compare_losses() else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
