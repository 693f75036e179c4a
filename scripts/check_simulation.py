"""The simulated step beside real ones: the demo's model on this CPU, quantised by bitsandbytes, trained by TRL.

    .venv/bin/python -m scripts.check_simulation              # twelve settings, about 8 minutes on 2 cores
    .venv/bin/python -m scripts.check_simulation --quick      # four short ones, a minute

For each setting two optimizer steps run in this process. `tracked` is the largest sum of live tensors, counted at each
operator; `allocator` the same from the events of torch's CPU allocator (torch.profiler), which sees inside of
operators and knows nothing of us. `predicted` is the simulation's, on tensors without content. Loading the base and
evaluation batches are compared as well. Exit 1 where a prediction is more than 2 % from what was tracked.
"""

import argparse
import copy
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging

from finetune.artifacts import Artifact
from finetune.base import open_base
from finetune.chat import Encoded
from finetune.config import RunConfig, load
from finetune.config.model import Attention, Quantisation
from finetune.config.schema import Checkpointing, LoraSettings, Optimizer, TrainConfig
from finetune.console import say
from finetune.dataset import TrainingRows
from finetune.generate import greedy
from finetune.methods import lora_config
from finetune.model import Loaded, load_base
from finetune.plan.request import measured_workload, settings_of
from finetune.plan.settings import Settings
from finetune.plan.simulate import loading_bytes, simulate, simulate_evaluation
from finetune.trainer import make_trainer
from finetune.trial_run import tracked
from scripts.machine import describe

T = TypeVar("T")
MARGIN, STEPS, MIB = 0.02, 2, 2**20
NEW_TOKENS = 4
SHORTER = 16
"""Tokens that every other row of a padded batch lacks."""


@dataclass(frozen=True)
class Case:
    """A real step: micro-batch, tokens a row, of these trained, and what differs from the defaults."""

    rows: int
    tokens: int
    trained: int
    train: TrainConfig
    quantisation: Quantisation = Quantisation.nf4
    attention: Attention = Attention.auto
    padded: bool = False

    def __str__(self) -> str:
        train = self.train
        words = [f"{self.rows} x {self.tokens}, {self.trained} trained", f"rank {train.lora.rank}"]
        words += [train.optimizer.name, f"checkpointing {train.checkpointing.name}"]
        words += [f"every {train.checkpoint_every}"] if train.checkpoint_every > 1 else []
        words += ["packed"] if train.packing else []
        words += ["padded"] if self.padded else []
        words += [f"accumulates {train.global_batch // self.rows}"] if train.global_batch > self.rows else []
        words += ["bf16"] if self.quantisation is Quantisation.none else []
        return ", ".join(words + ([self.attention.name] if self.attention is not Attention.auto else []))


def case(shape: tuple[int, int, int], rank: int = 16, accumulation: int = 1, **facts: Any) -> Case:
    """A case; `facts` go to the training settings or to the case itself, whichever knows them."""
    own = {key: facts.pop(key) for key in ("quantisation", "attention", "padded") if key in facts}
    facts = {"optimizer": Optimizer.adamw_torch, "checkpointing": Checkpointing.full, **facts}
    lora, batch = LoraSettings(rank=rank), {"global_batch": shape[0] * accumulation, "micro_batch": shape[0]}
    train = TrainConfig(max_steps=STEPS, lora=lora, log_every_steps=1, **batch, **facts)
    return Case(*shape, train, **own)


QUICK = (
    case((1, 64, 64), rank=8),
    case((2, 128, 8), checkpointing=Checkpointing.none, optimizer=Optimizer.adamw_8bit, rank=64),
    case((4, 64, 8), padded=True, checkpoint_every=2),
    case((2, 64, 8), packing=True, quantisation=Quantisation.none),
)
CASES = (
    case((1, 64, 64), rank=8),
    case((1, 64, 8), rank=64, accumulation=2),
    case((16, 64, 16), checkpointing=Checkpointing.none, optimizer=Optimizer.adamw_8bit, rank=64),
    case((4, 256, 32), rank=64, quantisation=Quantisation.none),
    case((4, 256, 256), checkpointing=Checkpointing.selective),
    case((8, 128, 8), checkpointing=Checkpointing.none, padded=True),
    case((2, 512, 8), attention=Attention.eager, optimizer=Optimizer.paged_adamw_32bit),
    case((4, 512, 8), rank=8, optimizer=Optimizer.adamw_8bit),
    case((4, 512, 8), packing=True),
    case((1, 1024, 128), checkpoint_every=2),
    case((1, 1024, 8), checkpointing=Checkpointing.none, rank=64),
    case((16, 512, 16), padded=True, rank=8),
)


def rows_of(case: Case) -> TrainingRows:
    """Rows of the case's length, their last tokens trained."""

    def row(index: int) -> Encoded:
        length = case.tokens - (SHORTER * (index % 2) if case.padded else 0)
        ids = [5 + (7 * index + place) % 97 for place in range(length)]
        return Encoded(ids, [-100] * (length - case.trained) + ids[length - case.trained :])

    encoded = [row(index) for index in range(STEPS * case.train.global_batch)]
    tokens = sum(len(row.ids) for row in encoded)
    order = list(range(len(encoded)))
    return TrainingRows(encoded, order, {"steps": STEPS, "tokens": tokens}, list(map(str, order)))


def allocated(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and the most that torch's CPU allocator had given out during it."""
    gc.collect()  # what an earlier case left would be released in between
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return result, highest


def peaks(network: Any, work: Callable[[], object]) -> tuple[int, int]:
    """The largest sum of live tensors while `work` runs: by our count, and by torch's allocator."""
    with tracked(network) as tracker:
        before = sum(tracker.categories.values())
        _, highest = allocated(work)
    return tracker.peak.total, before + highest


@dataclass
class Bases:
    """The demo's base, each way of holding it loaded once; trainers get copies."""

    run: RunConfig
    pinned: Artifact

    def __post_init__(self) -> None:
        self.kept: dict[tuple[Quantisation, Attention], Loaded] = {}

    def run_of(self, case: Case) -> RunConfig:
        """The demo's configuration with the case's settings."""
        model = replace(self.run.model, quantisation=case.quantisation, attention=case.attention)
        return replace(self.run, model=model, train=case.train)

    def loaded(self, case: Case) -> Loaded:
        """A fresh copy of the base."""
        key = case.quantisation, case.attention
        if key not in self.kept:
            self.kept[key] = load_base(self.pinned, self.run_of(case).model, self.run.hardware)
        return replace(self.kept[key], model=copy.deepcopy(self.kept[key].model))


def settings_for(case: Case, bases: Bases) -> Settings:
    """The step in the planner's words, by the planner's own mapping."""
    run = bases.run_of(case)
    return settings_of(run, run.model.architecture, measured_workload(rows_of(case), case.train))


def told(name: str, predicted: int, real: tuple[int, int]) -> bool:
    """Print one line; whether the prediction is within the margin."""
    error = predicted / real[0] - 1
    say(
        f"{name:72} {predicted / MIB:8.1f} {real[0] / MIB:8.1f} {error:+8.2%} {real[1] / MIB:9.1f} "
        f"{predicted / real[1] - 1:+8.2%}"
    )
    return abs(error) <= MARGIN


def check_step(case: Case, bases: Bases) -> bool:
    """Two real optimizer steps of a case beside their simulation."""
    predicted = simulate(settings_for(case, bases)).peak.total
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            bases.loaded(case), rows_of(case), case.train, bases.run.hardware, Path(folder)
        )
        return told(str(case), predicted, peaks(trainer.model, trainer.train))


def check_evaluation(rows: int, tokens: int, bases: Bases) -> bool:
    """Greedy answers of the adapter to padded prompts."""
    base = bases.loaded(CASES[0])
    adapted = get_peft_model(base.model, lora_config(LoraSettings(), base.model)).eval()
    prompts = [row.ids[:-1] for row in rows_of(case((rows, tokens + 1, 1), padded=rows > 1)).rows[:rows]]
    loaded = Loaded(adapted, base.tokenizer, base.renderer)
    adapted.generation_config.eos_token_id = [adapted.config.vocab_size - 1]  # no answer ends early
    settings = settings_for(case((rows, tokens, 1)), bases)
    real = peaks(adapted, lambda: greedy(loaded, prompts, rows, NEW_TOKENS, "evaluation"))
    name = f"evaluation, {rows} x {tokens}, {NEW_TOKENS} new tokens"
    return told(name, simulate_evaluation(settings, rows, tokens, NEW_TOKENS), real)


def check_loading(bases: Bases) -> bool:
    """Loading and quantising. Files are mapped: the tensors that stay in them count, the others do not."""
    first = CASES[0]
    loaded, highest = allocated(
        lambda: load_base(bases.pinned, bases.run_of(first).model, bases.run.hardware)
    )
    mapped = sum(path.stat().st_size for path in bases.pinned.folder.glob("*.safetensors"))
    stays = sum(p.nbytes for p in loaded.model.parameters() if not hasattr(p, "quant_state"))
    real = highest - mapped + stays
    return told("loading", loading_bytes(settings_for(first, bases)), (real, real))


def main(argv: Sequence[str]) -> int:
    """Compare all settings; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    cases = QUICK if parser.parse_args(argv).quick else CASES
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run = load(["experiment=licences_smollm135m"])
    bases = Bases(run, open_base(run))
    say(f"{describe()}, torch {torch.__version__}")
    say(f"{'setting (MiB)':72} predicted  tracked    error allocator    error")
    passed = [check_loading(bases), check_evaluation(4, 64, bases)]
    passed += [check_step(case, bases) for case in cases]
    if cases is CASES:
        passed += [check_evaluation(1, 512, bases), check_evaluation(16, 256, bases)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
