"""A training run from its inputs to a saved adapter: begun, resumed, made smaller where memory runs out."""

import gc
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune.adapter_files import write_adapter
from finetune.artifacts import Artifact, Output, Spec
from finetune.artifacts.folders import CHECKPOINTS
from finetune.checkpoint import Checkpoint, Checkpoints
from finetune.config import RunConfig
from finetune.config.plan import Device
from finetune.console import say
from finetune.dataset import TrainingRows, encode_rows
from finetune.errors import MachineError
from finetune.exact_trainer import ExactTrainer, Part, Safety
from finetune.expected import Expected, expected_of
from finetune.flops import needed_flops
from finetune.guards import (
    SpikeWatch,
    is_out_of_memory,
    require_finite,
    require_room,
    require_trained_tokens,
    smaller_micro_batch,
)
from finetune.log_rows import Row, rewind
from finetune.metrics import JobType
from finetune.mirror import Mirror
from finetune.model import Loaded, load_base, quantised_modules
from finetune.preemption import Preemption
from finetune.rows import read_rows
from finetune.run_log import RunLog
from finetune.tracking import Tracker, open_run
from finetune.trainer import make_trainer
from finetune.training_state import checkpoint_bytes

LOG = "log.jsonl"


@dataclass
class Session:
    """Everything that one run is given."""

    run: RunConfig
    spec: Spec
    data: Artifact
    base: Artifact
    plan: Artifact
    output: Output
    preemption: Preemption


def train_adapter(session: Session) -> None:
    """Train to the end, or go on where the last checkpoint is: adapter, log.jsonl, counts and facts go into the output.

    Raises PreemptedError after a signal, with a checkpoint written; RefusedError where a guard says no; MachineError
    where memory or disk do not suffice.
    """
    run, output = session.run, session.output
    mirror = (
        Mirror(f"{run.train.mirror.rstrip('/')}/{run.name}/{output.folder.name}")
        if run.train.mirror
        else None
    )
    store = Checkpoints(output.path(CHECKPOINTS), output.folder.name, run.train.keep_checkpoints, mirror)
    found = store.newest()
    micro_batch = found.facts["micro_batch"] if found else run.train.micro_batch
    with open_run(run, JobType.train, session.spec, _history(output, found)) as tracker:
        while True:
            smaller = _attempt(session, store, micro_batch, tracker)
            if smaller is None:
                return
            micro_batch = smaller
            gc.collect()
            with suppress(AssertionError):  # torch without CUDA
                torch.cuda.empty_cache()


def _history(output: Output, found: Checkpoint | None) -> list[Row] | None:
    """The rows of the log before the checkpoint, all that is left of it; None where the run begins."""
    rows = rewind(output.path(LOG), found.step if found else -1)
    return rows if found else None


def _attempt(session: Session, store: Checkpoints, micro_batch: int, tracker: Tracker) -> int | None:
    """Train from the newest checkpoint; None once the adapter is saved, else the micro-batch that may fit."""
    run = session.run
    train = replace(run.train, micro_batch=micro_batch)
    loaded = load_base(session.base, run.model, run.hardware)
    rows = encode_rows(read_rows(session.data.path("train.jsonl")), loaded.renderer, train)
    require_trained_tokens(rows, train)
    _announce(rows, train.global_batch)
    trainer = make_trainer(loaded, rows, train, run.hardware, session.output.folder)
    require_room(session.output.folder, (train.keep_checkpoints + 2) * checkpoint_bytes(trainer))
    found = store.newest()
    history = _history(session.output, found)
    expected = _expected(session, trainer, rows)
    cuda = run.hardware.device is Device.cuda
    with session.output.append(LOG) as stream, RunLog(stream, tracker, expected, cuda, history) as log:

        def note(row: dict[str, Any]) -> None:
            log.note(row)
            say(
                f"  step {row['step']}: "
                + ", ".join(f"{key} {value}" for key, value in row.items() if key != "step")
            )

        parts: dict[str, Part] = {"spikes": SpikeWatch(train.spike_deviations)}
        trainer.secure(Safety(store, session.preemption, note, parts))
        trainer.add_callback(log)
        smaller = _train(trainer, found, note)
    if smaller is None:
        _save(session, trainer, loaded, rows)
        tracker.log({f"count/{key}": value for key, value in rows.counts.items()})
    return smaller


def _expected(session: Session, trainer: ExactTrainer, rows: TrainingRows) -> Expected:
    """What the whole run takes, by its rows, its model and its plan."""
    run, plan = session.run, json.loads(session.plan.path("plan.json").read_text())
    return expected_of(rows, run.train.global_batch, needed_flops(trainer.model), run.hardware, plan)


def _train(
    trainer: ExactTrainer, found: Checkpoint | None, note: Callable[[dict[str, Any]], None]
) -> int | None:
    """None at the end of the run; where memory ran out, saved as the step began, the micro-batch to go on with."""
    if found is not None:
        say(f"going on from step {found.step}, {found.folder}")
    try:
        trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        doing = trainer.in_optimizer
    else:
        return None
    if doing:
        raise MachineError(
            "out of memory in the optimizer's step, whatever the micro-batch; lower train.lora.rank or use "
            "train.optimizer=paged_adamw_8bit"
        )
    smaller = smaller_micro_batch(trainer.run_train)
    trainer.save_step_start()
    row = {"step": trainer.state.global_step, "out_of_memory_at_micro_batch": trainer.run_train.micro_batch}
    note({**row, "micro_batch": smaller})
    return smaller


def _announce(rows: TrainingRows, global_batch: int) -> None:
    counts = rows.counts
    say(
        f"{counts['rows']} rows, {counts['steps']} steps of {global_batch}; "
        f"{counts['trained_tokens']} of {counts['tokens']} tokens are answers and trained, "
        f"{counts['rows_too_long']} rows too long, {counts['rows_never_seen']} beyond the last step"
    )


def _save(session: Session, trainer: ExactTrainer, loaded: Loaded, rows: TrainingRows) -> None:
    require_finite(trainer.model)
    write_adapter(trainer.model, session.run.model, session.output)
    session.output.counts = dict(rows.counts)
    session.output.facts = _facts(session, loaded, quantised_modules(trainer.model))


def _facts(session: Session, loaded: Loaded, quantised: list[str]) -> dict[str, Any]:
    run, manifest = session.run, session.base.manifest
    return {
        "base_repo": run.model.base.repo,
        "base_weights": manifest.content,
        "base_revision": manifest.config["base"].get("revision"),
        "quantised": quantised,
        "template": loaded.renderer.template_hash(),
        "seed": run.train.seed,
        "hardware": run.hardware.name,
    }
