"""The fastest settings that fit, and what to give up where nothing does."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

from finetune.config import RunConfig
from finetune.config.model import Quantisation
from finetune.config.plan import Device
from finetune.config.schema import Checkpointing, Optimizer
from finetune.console import progress, quiet_libraries

PROCESSES = 2
"""Simulations side by side; each takes about a gigabyte."""


@dataclass(frozen=True)
class Change:
    """A setting of `train`, `model` or `plan` and its new value, as an override on the command line."""

    key: str
    value: Any

    def __str__(self) -> str:
        value = self.value.name if hasattr(self.value, "name") else str(self.value).lower()
        return f"{self.key}={value}"

    def on(self, run: RunConfig) -> RunConfig:
        """The configuration with this change."""
        section, name = self.key.split(".", 1)
        part = getattr(run, section)
        if name.startswith("lora."):
            part = replace(part, lora=replace(part.lora, **{name[5:]: self.value}))
        else:
            part = replace(part, **{name: self.value})
        return replace(run, **{section: part})


MODES: tuple[dict[str, Any], ...] = (
    {"checkpointing": Checkpointing.none, "checkpoint_every": 1, "offload_activations": False},
    {"checkpointing": Checkpointing.full, "checkpoint_every": 2, "offload_activations": False},
    {"checkpointing": Checkpointing.selective, "checkpoint_every": 1, "offload_activations": False},
    {"checkpointing": Checkpointing.full, "checkpoint_every": 1, "offload_activations": False},
    {"checkpointing": Checkpointing.full, "checkpoint_every": 1, "offload_activations": True},
)


def candidates(run: RunConfig) -> list[RunConfig]:
    """Every way to run the same optimizer steps: the effective batch never changes, the loss head has one form."""
    found = []
    for micro in divisors(run.train.global_batch):
        for mode in MODES:
            if mode["offload_activations"] and run.hardware.device is Device.cpu:
                continue
            for packing in (False, True):
                if micro > 1 or not packing:  # a single row has nothing to be packed with
                    train = replace(run.train, micro_batch=micro, packing=packing, **mode)
                    found.append(replace(run, train=train))
    return found


def divisors(number: int) -> list[int]:
    """Micro-batches that a global batch can be cut into."""
    return [count for count in range(1, number + 1) if number % count == 0]


CLOSE = 0.01
"""Predicted speeds that are this close are equal: the prediction is not better."""


def best(found: Iterable[tuple[RunConfig, Any]]) -> RunConfig | None:
    """Among the fastest that fit, the one that needs least memory; without a speed, the least recomputation."""
    fitting = [(run, result) for run, result in found if result.fits]
    if not fitting:
        return None
    fastest = max(result.tokens_per_s or 0.0 for _, result in fitting)
    close = [item for item in fitting if (item[1].tokens_per_s or 0.0) >= (1 - CLOSE) * fastest]
    if not fastest:
        return min(close, key=lambda item: (MODES.index(mode_of(item[0])), -item[0].train.micro_batch))[0]
    return min(close, key=lambda item: item[1].device.total)[0]


def mode_of(run: RunConfig) -> dict[str, Any]:
    """How a run keeps or recomputes its activations."""
    train = run.train
    return {
        "checkpointing": train.checkpointing,
        "checkpoint_every": train.checkpoint_every,
        "offload_activations": train.offload_activations,
    }


def overrides(before: RunConfig, after: RunConfig) -> list[str]:
    """The settings of `train` in which two runs differ, as `make train ARGS=` takes them."""
    keys = ("micro_batch", "checkpointing", "checkpoint_every", "offload_activations", "packing")
    return [
        str(Change(f"train.{key}", getattr(after.train, key)))
        for key in keys
        if getattr(after.train, key) != getattr(before.train, key)
    ]


def evaluate(
    work: Callable[[RunConfig], Any], runs: Sequence[RunConfig], label: str
) -> list[tuple[RunConfig, Any]]:
    """Predict many runs side by side, in fresh processes, in order."""
    fresh = get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=fresh, initializer=quiet_libraries) as pool:
        return list(zip(runs, progress(pool.map(work, runs), label, len(runs)), strict=True))


def levers(run: RunConfig) -> list[Change]:
    """What can be given up, cheapest first: nothing, speed, the adapter's size, the length of rows, another GPU."""
    cuda = run.hardware.device is Device.cuda
    return [*_free(run, cuda), *_slower(run, cuda), *_smaller(run), *(_more_gpus(run) if cuda else [])]


def _free(run: RunConfig, cuda: bool) -> Iterator[Change]:
    if run.model.quantisation is Quantisation.none:
        yield Change("model.quantisation", Quantisation.nf4)
    elif not run.model.double_quantisation:
        yield Change("model.double_quantisation", True)
    if cuda and run.train.optimizer not in (Optimizer.auto, Optimizer.paged_adamw_8bit):
        yield Change("train.optimizer", Optimizer.paged_adamw_8bit)


def _slower(run: RunConfig, cuda: bool) -> Iterator[Change]:
    if run.train.checkpointing is not Checkpointing.full:
        yield Change("train.checkpointing", Checkpointing.full)
    if run.train.checkpoint_every > 1:
        yield Change("train.checkpoint_every", 1)
    if run.train.micro_batch > 1:
        yield Change("train.micro_batch", 1)
    if cuda and not run.train.offload_activations:
        yield Change("train.offload_activations", True)


def _smaller(run: RunConfig) -> Iterator[Change]:
    if run.train.lora.rank > SMALL_RANK:
        yield Change("train.lora.rank", SMALL_RANK)
    for part in (2, 4):
        if run.train.max_tokens // part >= SHORT_ROW:
            yield Change("train.max_tokens", run.train.max_tokens // part)


def _more_gpus(run: RunConfig) -> Iterator[Change]:
    for gpus in (2, 4, 8):
        if gpus > run.plan.gpus:
            yield Change("plan.gpus", gpus)


SMALL_RANK, SHORT_ROW = 8, 256
"""Below these a lever would change what is learned too much to be proposed."""
