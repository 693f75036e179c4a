"""A few real steps, a checkpoint and an evaluation batch on the configured device, measured."""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from finetune.architecture import architecture_of
from finetune.artifacts import Artifact
from finetune.config import RunConfig
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import TrainConfig
from finetune.console import say
from finetune.dataset import TrainingRows, encode_rows
from finetune.fused.lora import cast_inputs
from finetune.generate import greedy
from finetune.guards import is_out_of_memory, require_finite
from finetune.model import ADAPTER, Loaded, load_base, read_renderer, require_device
from finetune.peak_memory import peak_bytes, reset_peak
from finetune.plan.device import CONTEXT
from finetune.plan.holdings import hold_weights
from finetune.plan.kernels import cpu_scratch
from finetune.plan.measured import Measured
from finetune.plan.memory import MemoryTracker
from finetune.plan.request import batch_size, measured_workload, settings_of
from finetune.rows import read_rows
from finetune.trainer import make_trainer
from finetune.training_data import TrainingData

STEPS = 3
"""Optimizer steps: the first warms up and makes the optimizer's states, the others are timed."""
NEW_TOKENS = 8
"""Of each evaluated prompt: enough for a time a token, while the prompts decide the memory."""


def device_name(hardware: HardwareConfig) -> str:
    """The device as its maker names it. Raises MachineError where it is not there."""
    require_device(hardware)
    if hardware.device is Device.cuda:
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def trial_run(run: RunConfig, data: TrainingData, pinned: Artifact, scratch: Path) -> Measured:
    """Load, train, save and answer as the stages do, with every row at its longest; files go into `scratch`.

    A device out of memory is an outcome: `out_of_memory` is set beside the numbers up to there.
    """
    renderer = read_renderer(pinned.folder, run.model)
    rows = longest_rows(encode_rows(data.rows(), renderer, run.train), run.train, _steps(run))
    work = measured_workload(rows, run.train)
    settings = settings_of(run, architecture_of(run.model, pinned.folder), work)
    found = Measured(device_name(run.hardware), settings, (work.padded or 0) // _steps(run))
    prompts = [renderer.prompt_ids(row["messages"]) for row in read_rows(data.path("test.jsonl"))]
    say(
        f"{STEPS} steps of {run.train.global_batch} rows in micro-batches of {settings.rows} x {settings.tokens} "
        f"tokens, the longest of the run, on {found.device}"
    )
    with noting_out_of_memory(found, run.hardware):
        _measure(run, pinned, rows, longest(prompts, run.eval.batch_rows), scratch, found)
    return found


def _steps(run: RunConfig) -> int:
    """On a CPU, where nobody counts memory, one more step is followed operator by operator and not timed."""
    return STEPS + (run.hardware.device is Device.cpu)


def longest_rows(data: TrainingRows, train: TrainConfig, steps: int) -> TrainingRows:
    """Steps whose every micro-batch is the largest one of the run: the one that the plan is about."""
    batches = [
        data.order[start : start + train.micro_batch]
        for start in range(0, len(data.order), train.micro_batch)
    ]
    largest = max(batches, key=lambda batch: batch_size([data.rows[index] for index in batch], train))
    order = largest * (train.global_batch // train.micro_batch) * steps
    return replace(data, order=order, counts={**data.counts, "steps": steps})


def longest(prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """The `count` longest prompts."""
    return sorted(prompts, key=len, reverse=True)[:count]


@contextmanager
def noting_out_of_memory(found: Measured, hardware: HardwareConfig) -> Iterator[None]:
    """End the block where memory runs out, and note it beside what was allocated until then."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found.out_of_memory = True
        found.left = left_bytes(hardware)
        if hardware.device is Device.cuda:
            found.allocated = found.allocated or torch.cuda.max_memory_allocated()


def left_bytes(hardware: HardwareConfig, proc: Path = Path("/proc")) -> int | None:
    """What other processes leave of the device: what is free, and what this one holds. None: the system does not tell.

    Of a GPU this one holds what torch reserved, and the context (finetune/plan/device.py).
    """
    if hardware.device is Device.cuda:
        free, total = torch.cuda.mem_get_info()
        return min(total, free + torch.cuda.memory_reserved() + CONTEXT)
    machine, own = _kibibytes(proc / "meminfo"), _kibibytes(proc / "self/status")
    if "MemAvailable" not in machine or "VmRSS" not in own:
        return None
    return 1024 * (machine["MemAvailable"] + own["VmRSS"])


def _kibibytes(path: Path) -> dict[str, int]:
    """Sizes by name, as Linux lists them; none where there is no such file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    named = [line.split() for line in lines if line.endswith(" kB")]
    return {words[0].removesuffix(":"): int(words[1]) for words in named}


def _measure(
    run: RunConfig,
    pinned: Artifact,
    rows: TrainingRows,
    prompts: list[list[int]],
    scratch: Path,
    found: Measured,
) -> None:
    loaded = load_base(pinned, run.model, run.hardware)
    trainer = make_trainer(loaded, rows, run.train, run.hardware, scratch)
    with ExitStack() as tracking:
        trainer.add_callback(StepMeter(found, run.hardware, tracking))
        trainer.train()
    _read_device(found, run.hardware)
    require_finite(trainer.model)
    found.doing = "the checkpoint"
    started = time.monotonic()
    write_checkpoint(trainer, scratch)
    found.checkpoint_s = time.monotonic() - started
    found.checkpoint = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    loaded = Loaded(trainer.model.eval(), loaded.tokenizer, loaded.renderer)
    del trainer  # an evaluation holds no optimizer
    found.doing = "the evaluation batch"
    _answer(loaded, prompts, run, found)


class StepMeter(TrainerCallback):  # type: ignore[misc]
    """Times each step from the end of the one before it; follows the memory of the step after the timed ones."""

    def __init__(self, found: Measured, hardware: HardwareConfig, tracking: ExitStack) -> None:
        self.found, self.cuda, self.tracking = found, hardware.device is Device.cuda, tracking
        self.tracker: MemoryTracker | None = None
        self.last = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first step's time begins; what loading held is no part of a step."""
        reset_peak(self.cuda)
        self.last = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Say where an error would happen; start to follow the last step of a CPU."""
        self.found.doing = f"step {state.global_step + 1} of {state.max_steps}"
        if state.global_step == STEPS:
            self.tracker = self.tracking.enter_context(tracked(parts["model"], parts["optimizer"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time, or the peak of the followed step."""
        if self.tracker is not None:
            self.tracking.close()
            self.found.allocated = self.tracker.peak.total
            return
        if self.cuda:
            torch.cuda.synchronize()
        now = time.monotonic()
        self.found.step_s.append(now - self.last)
        self.last = now


@contextmanager
def tracked(network: Any, optimizer: Any = None) -> Iterator[MemoryTracker]:
    """Follow what is allocated on a CPU inside, on top of the weights and the optimizer's states."""
    tracker = MemoryTracker(cpu_scratch)
    hold_weights(tracker, network)
    for tensor in _states(optimizer).values() if optimizer else ():
        tracker.hold(tensor, "optimizer")
    with tracker:
        yield tracker


def _states(optimizer: Any) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by parameter and name."""
    return {
        f"{index}.{name}": value
        for index, states in enumerate(optimizer.state.values())
        for name, value in states.items()
        if isinstance(value, torch.Tensor)
    }


def _read_device(found: Measured, hardware: HardwareConfig) -> None:
    """What the device held during the steps; of a CPU, this process' share of it, where the system tells."""
    if hardware.device is Device.cpu:
        found.used = peak_bytes(cuda=False)
        return
    found.allocated, found.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    free, total = torch.cuda.mem_get_info()
    found.used = total - free


def write_checkpoint(trainer: Any, folder: Path) -> None:
    """The adapter and the optimizer's states as safetensors, which share no memory on the host."""
    trainer.model.save_pretrained(folder / ADAPTER)
    states = {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in _states(trainer.optimizer).items()
    }
    save_file(states, folder / "optimizer.safetensors")


def _answer(loaded: Loaded, prompts: list[list[int]], run: RunConfig, found: Measured) -> None:
    cuda = run.hardware.device is Device.cuda
    cast_inputs(loaded.model, True)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    greedy(loaded, prompts, run.eval.batch_rows, NEW_TOKENS, "evaluation")
    found.evaluation_s = time.monotonic() - started
    if cuda:
        found.evaluation = torch.cuda.max_memory_allocated()
        return
    with tracked(loaded.model) as tracker:
        greedy(loaded, prompts, run.eval.batch_rows, NEW_TOKENS, "evaluation, followed")
    found.evaluation = tracker.peak.total
