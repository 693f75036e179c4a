"""A training run from its inputs to a saved adapter: begun, resumed, made smaller where memory runs out."""

from dataclasses import dataclass, replace
from typing import Any

from finetune import tracking
from finetune.adapter_files import write_adapter
from finetune.artifacts import Output, Spec, input_record, require_room
from finetune.artifacts.folders import CHECKPOINTS
from finetune.checkpoint import Checkpoint, Checkpoints
from finetune.config import RunConfig
from finetune.config.plan import Device
from finetune.config.schema import TrainConfig
from finetune.console import say
from finetune.dataset import TrainingRows, encode_rows, encode_validation
from finetune.errors import ConfigError, MachineError
from finetune.exact_trainer import ExactTrainer, Part, Safety
from finetune.expected import expected_of
from finetune.flops import needed_flops
from finetune.guards import (
    SpikeWatch,
    is_out_of_memory,
    release_memory,
    require_finite,
    require_trained_tokens,
    smaller_micro_batch,
)
from finetune.log_rows import LOG, Row, restored
from finetune.metrics import JobType
from finetune.mirror import Mirror
from finetune.model import Loaded, TrainedOn, load_base, quantised_modules
from finetune.plan.request import measured_workload
from finetune.preemption import Preemption
from finetune.rows import read_rows
from finetune.run_log import RunLog
from finetune.token_report import write_report
from finetune.tracking import Tracker
from finetune.trainer import make_trainer
from finetune.training_data import TrainingData
from finetune.training_state import checkpoint_bytes, load_weights
from finetune.validating import HeldOut, Validating
from finetune.validation import NO_ROWS


@dataclass
class Session:
    """Everything that one run is given. `planned` is the content of plan.json."""

    run: RunConfig
    spec: Spec
    data: TrainingData
    base: TrainedOn
    output: Output
    preemption: Preemption
    planned: dict[str, Any]


def train_adapter(session: Session) -> None:
    """Train to the end, or go on where the last checkpoint is: adapter, log.jsonl, counts and facts go into the output.

    Raises PreemptedError after a signal, with a checkpoint written; RefusedError where a guard says no; MachineError
    where memory or disk do not suffice.
    """
    store = _store(session)
    found = store.newest()
    history = _history(session, found)
    with tracking.open_run(session.run, JobType.train, session.spec, history if found else None) as tracker:
        while not _attempt(session, store, tracker, found):
            session.preemption.leave_training()
            release_memory()
            found = store.newest()


def _store(session: Session) -> Checkpoints:
    train, folder = session.run.train, session.output.folder
    place = f"{train.mirror.rstrip('/')}/{session.run.name}/{folder.name}" if train.mirror else None
    mirror = Mirror(place) if place else None
    return Checkpoints(session.output.path(CHECKPOINTS), folder.name, train.keep_checkpoints, mirror)


def _history(session: Session, found: Checkpoint | None) -> list[Row]:
    """The rows of the log up to the checkpoint; those beyond it are written again."""
    return restored(session.output.path(LOG), found.folder if found else None)


def _attempt(session: Session, store: Checkpoints, tracker: Tracker, found: Checkpoint | None) -> bool:
    """Train from a checkpoint, or the start. Whether the adapter is saved; if not, a checkpoint says how to go on."""
    run, output = session.run, session.output
    train = replace(run.train, micro_batch=found.facts["micro_batch"] if found else run.train.micro_batch)
    loaded = load_base(session.base.read, run.model, run.hardware)
    rows = encode_rows(session.data.rows(), loaded.renderer, train)
    require_trained_tokens(rows, train)
    write_report(rows.report, output)
    _announce(rows, train.global_batch)
    trainer = make_trainer(loaded, rows, train, run.hardware, output.folder)
    _require_room(session, trainer)
    expected = expected_of(
        rows, train.global_batch, needed_flops(trainer.model), run.hardware, session.planned
    )
    cuda, history = run.hardware.device is Device.cuda, _history(session, found)
    with output.append(LOG) as stream, RunLog(stream, tracker, expected, cuda, history) as log:
        parts: dict[str, Part] = {"spikes": SpikeWatch(train.spike_deviations)}
        safety = Safety(store, session.preemption, log, parts)
        if train.validate_every_steps is not None:
            held_out = _held_out(session, loaded, rows, train)
            validating = Validating(loaded, held_out, train, trainer, safety)
            parts |= {"best": validating.best, "validation": validating}
            trainer.add_callback(validating)
        trainer.add_callback(log)
        trainer.secure(safety)
        if not _train(trainer, found, log):
            return False
    session.preemption.answer = "the run is at its end and writes the adapter"
    _save(session, trainer, loaded, rows, tracker)
    return True


def _require_room(session: Session, trainer: ExactTrainer) -> None:
    """Room for what is kept of checkpoints and best weights, one more of each, and the adapter."""
    train, folder = session.run.train, session.output.folder
    weights, states = checkpoint_bytes(trainer)
    best = weights if train.validate_every_steps else 0
    there = sum(path.stat().st_size for path in (folder / CHECKPOINTS).rglob("*") if path.is_file())
    needed = (train.keep_checkpoints + 1) * (weights + states + best) + weights - there
    require_room(folder, needed, "the run with its checkpoints", "lower train.keep_checkpoints")


def _held_out(session: Session, loaded: Loaded, rows: TrainingRows, train: TrainConfig) -> HeldOut:
    """The validation rows, in batches that take no more memory than the largest of training.

    Raises ConfigError where there is nothing to validate on.
    """
    found = read_rows(session.data.path("val.jsonl"))[: train.validation_rows]
    encoded = encode_validation(found, loaded.renderer, train)
    if not encoded.counts["trained_tokens"]:
        raise ConfigError(NO_ROWS)  # now, and not at the first validation
    largest = measured_workload(rows, train)
    return HeldOut(found, encoded.rows, train.micro_batch, train.micro_batch * largest.row_tokens)


def _train(trainer: ExactTrainer, found: Checkpoint | None, log: RunLog) -> bool:
    """Whether the run is at its end; where memory ran out it is saved as the step began, with a smaller micro-batch."""
    if found is not None:
        say(f"going on from step {found.step}, {found.folder}")
        if found.facts["stopped"]:
            trainer.stand_at(found)
            return True
    try:
        trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    if trainer.in_optimizer or trainer.begun is None:
        where = "the optimizer's step" if trainer.in_optimizer else "saving between two steps"
        raise MachineError(
            f"out of memory in {where}, whatever the micro-batch; lower train.micro_batch or train.lora.rank, or use "
            "train.optimizer=paged_adamw_8bit; the same command goes on from the last checkpoint"
        )
    before, step = trainer.run_train.micro_batch, trainer.state.global_step
    smaller = smaller_micro_batch(trainer.run_train)
    log.note({"step": step, "out_of_memory_at_micro_batch": before, "micro_batch": smaller})
    trainer.save_step_start(smaller)
    say(
        f"  step {step + 1}: out of memory with {before} rows a micro-batch; again with {smaller}, the same rows"
    )
    return False


def _announce(rows: TrainingRows, global_batch: int) -> None:
    counts = rows.counts
    say(
        f"{counts['steps']} steps of {global_batch} rows: {counts['trained_tokens']} of {counts['tokens']} tokens are "
        f"trained; {counts['rows_never_seen']} rows lie beyond the last step"
    )


def _save(
    session: Session, trainer: ExactTrainer, loaded: Loaded, rows: TrainingRows, tracker: Tracker
) -> None:
    steps = trainer.state.global_step
    best = _use_best(trainer, session.run.train)
    require_finite(trainer.model)
    write_adapter(trainer.model, session.run.model, session.output)
    session.output.counts = {**rows.counts, "steps_taken": steps}
    session.output.facts = _facts(session, loaded, quantised_modules(trainer.model)) | {"best": best}
    tracker.log({f"count/{key}": value for key, value in session.output.counts.items()})


def _use_best(trainer: ExactTrainer, train: TrainConfig) -> dict[str, Any] | None:
    """Put the best validated weights in place of the last ones where they are to be kept; which those are."""
    if trainer.safety is None or "best" not in trainer.safety.parts:
        return None
    best = trainer.safety.parts["best"].state()
    if train.keep_best and best["step"] is not None:
        load_weights(trainer.model, trainer.safety.checkpoints.best(best["step"]).folder)
        say(
            f"the adapter is that of step {best['step']}, the best by {train.best_metric.name}: {best['value']:.4f}"
        )
    return {"metric": train.best_metric.name, "step": best["step"], "value": best["value"]}


def _facts(session: Session, loaded: Loaded, quantised: list[str]) -> dict[str, Any]:
    run, base = session.run, session.base
    return {
        "base_repo": run.model.base.repo,
        "base_weights": base.pinned.manifest.content,
        "base_revision": base.pinned.manifest.config["base"].get("revision"),
        "quantised_base": input_record(base.read) if base.read is not base.pinned else None,
        "quantised": quantised,
        "template": loaded.renderer.template_hash(),
        "seed": run.train.seed,
        "mix": session.data.mix(),
        "hardware": run.hardware.name,
    }
