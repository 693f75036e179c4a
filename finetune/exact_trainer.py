"""TRL's trainer with exact checkpoints: saved between steps, resumed bit for bit, guarded before the weights move."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback
from trl import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from finetune.checkpoint import Checkpoint, Checkpoints
from finetune.config.schema import TrainConfig
from finetune.console import say
from finetune.dataset import TrainingRows
from finetune.guards import SpikeWatch, listed, require_finite_step
from finetune.log_rows import LOG
from finetune.loss import OUTPUTS
from finetune.preemption import Preemption, stopped
from finetune.run_log import RunLog
from finetune.training_state import (
    load_weights,
    random_states,
    read_states,
    set_random_states,
    state_files,
)


class Part(Protocol):
    """What counts over the steps and must go on where a checkpoint left it."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass
class Safety:
    """What keeps one run safe: where it saves, who may stop it, what it watches."""

    checkpoints: Checkpoints
    preemption: Preemption
    log: RunLog
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass
class _StepStart:
    """What a step begins with, to go back to where it is given up half way."""

    random: dict[str, Any]
    loss_sum: torch.Tensor
    tokens: int


@dataclass
class _StepEnd:
    """What is logged of a step once the optimizer has moved, and stands nowhere else."""

    grad_norm: float
    lr: float


class ExactTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that checks each step before the optimizer moves and, once `secure` was called, saves itself.

    A checkpoint is taken between two steps, or as of the beginning of a step that is given up, or of the end of one
    whose validation is given up.
    """

    safety: Safety | None = None
    control: Any
    in_optimizer = False
    """Whether the optimizer is moving the weights: a failure then leaves them as nobody knows."""

    def __init__(self, *args: Any, rows: TrainingRows, train: TrainConfig, **options: Any) -> None:
        super().__init__(*args, **options)
        add_fused_lm_head(
            self.model.get_base_model(), outputs=OUTPUTS
        )  # in place of TRL's, for `compute_loss`
        self.run_rows, self.run_train = rows, train
        self.losses: list[torch.Tensor] = []
        self.begun: _StepStart | None = None
        self.moved = _StepEnd(0.0, 0.0)
        self.restored: dict[str, Any] | None = None
        self.saved_step: int | None = None
        self.add_callback(_Steps(self))

    def secure(self, safety: Safety) -> None:
        """Save to these checkpoints from now on, and obey these signals; every other callback is there before."""
        self.safety = safety
        self.add_callback(_Saving(self, safety, self.run_train))

    def save_step_start(self, micro_batch: int | None = None) -> None:
        """A checkpoint as of the beginning of the step under way, whose gradients are given up.

        `micro_batch`: the one to go on with, where it is another.
        """
        if micro_batch is not None:
            self.run_train, self.saved_step = replace(self.run_train, micro_batch=micro_batch), None
        if self.begun is not None:
            set_random_states(self.begun.random)
            self._tr_loss, self.state.num_input_tokens_seen = self.begun.loss_sum, self.begun.tokens
            self._save_checkpoint(self.model, None)

    def save_step_end(self) -> None:
        """A checkpoint before the validation of the step just taken, which is given up.

        Who goes on from it validates, logs and saves as that step does at its end.
        """
        losses = torch.stack(self.losses).cpu()
        self._save({"grad_norm": self.moved.grad_norm, "lr": self.moved.lr, "losses": losses})

    def take_end_again(self) -> None:
        """Validate, log and save after a step whose checkpoint is from before that."""
        end = self.restored.get("end") if self.restored is not None else None
        if self.restored is None or end is None:
            return
        set_random_states(self.restored["random"])  # the checkpoint to come holds them
        self.saved_step = None
        self.moved = _StepEnd(end["grad_norm"], end["lr"])
        self.losses = list(end["losses"].to(self.args.device))
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        known = {"grad_norm": end["grad_norm"], "learning_rate": end["lr"], "start_time": time.time()}
        unused = {"trial": None, "epoch": self.state.epoch, "ignore_keys_for_eval": None}
        self._maybe_log_save_evaluate(self._tr_loss, model=self.model, **known, **unused)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """All steps are one epoch; none follows a validation that stopped the run as soon as it was resumed."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **options)

    def stand_at(self, found: Checkpoint) -> None:
        """The weights and the rest of a checkpoint, for a run that had ended there."""
        self._load_from_checkpoint(str(found.folder))
        self.state.global_step = found.step

    def step_ids(self) -> list[list[str]]:
        """The row ids of the step under way, by micro-batch."""
        train, rows = self.run_train, self.run_rows
        start = self.state.global_step * train.global_batch
        step = [rows.ids[index] for index in rows.order[start : start + train.global_batch]]
        return [step[at : at + train.micro_batch] for at in range(0, len(step), train.micro_batch)]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The micro-batch's share of the step's mean loss, as TRL computes it, without the entropy for TRL's log."""
        log_probs: torch.Tensor = model(
            **inputs, fused_lm_head=True
        ).log_probs  # zero where nothing is trained
        return -log_probs.sum() / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """One micro-batch; its share of the step's loss is kept for the guards."""
        loss: torch.Tensor = super().training_step(*args, **options)
        self.losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The last place before the optimizer moves."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        losses = torch.stack(self.losses).tolist()
        require_finite_step(self.state.global_step + 1, float(norm), losses, self.step_ids())
        self.moved = _StepEnd(float(norm), self._get_learning_rate())
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Ours in place of TRL's, whose files are not whole until the last one is."""
        if self.saved_step != self.state.global_step:
            self._save()
            self.saved_step = self.state.global_step

    def _save(self, end: dict[str, Any] | None = None) -> None:
        assert self.safety is not None  # noqa: S101  (nothing asks for a checkpoint before `secure`)
        parts = {name: part.state() for name, part in self.safety.parts.items()}
        sums = {"loss_sum": self._tr_loss, "logged_step": self._globalstep_last_logged}
        states = {"random": random_states(), "parts": parts, "sums": sums, "end": end}
        is_over = self.control.should_training_stop and end is None
        facts = {"micro_batch": self.run_train.micro_batch, "stopped": is_over}
        facts["best_step"] = parts.get("best", {}).get("step")
        log = self.safety.log
        files = {**state_files(self, states), LOG: lambda stream: stream.write(log.text().encode())}
        with log.pause():
            self.safety.checkpoints.save(self.state.global_step, files, facts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))
        self.restored = read_states(Path(resume_from_checkpoint))
        for name, part in (self.safety.parts if self.safety else {}).items():
            if name in self.restored["parts"]:
                part.restore(self.restored["parts"][name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.restored is not None:
            self.optimizer.load_state_dict(self.restored.pop("optimizer"))
            self.lr_scheduler.load_state_dict(self.restored.pop("schedule"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Later: transformers does it before the loader of a first step draws from the generator."""


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Keeps what a step begins with, and goes on with the sums of a checkpoint."""

    def __init__(self, trainer: ExactTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """transformers starts the sums between two log rows at zero, also in a resumed run."""
        if self.trainer.restored is not None:
            sums = self.trainer.restored["sums"]
            self.trainer._tr_loss = sums["loss_sum"].to(args.device)
            self.trainer._globalstep_last_logged = sums["logged_step"]
            self.trainer.saved_step = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first micro-batch."""
        trainer = self.trainer
        if trainer.restored is not None:
            set_random_states(trainer.restored["random"])
            trainer.restored = None
        trainer.losses = []
        trainer.begun = _StepStart(random_states(), trainer._tr_loss.clone(), state.num_input_tokens_seen)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on the weights are on their way."""
        self.trainer.in_optimizer = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The weights are those of a whole step, and nothing is left to go back to."""
        self.trainer.in_optimizer, self.trainer.begun = False, None


class _Saving(TrainerCallback):  # type: ignore[misc]
    """Decides when to save and when to stop, and notes spikes of the loss."""

    def __init__(self, trainer: ExactTrainer, safety: Safety, train: TrainConfig) -> None:
        self.trainer, self.safety, self.train = trainer, safety, train
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on a signal finds something to save."""
        self.safety.preemption.training = True
        self.trainer.take_end_again()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between micro-batches: a step may be long, and who sends a signal does not wait."""
        self._stop_if_asked()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A signal may have come while the last step was logged."""
        self._stop_if_asked()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """transformers logs first and saves then."""
        self._note_spike(state.global_step)
        every, now = self.train.save_every_steps, time.monotonic()
        due = every is not None and state.global_step % every == 0
        due |= control.should_training_stop or state.global_step >= state.max_steps
        if due or now - self.saved > 60 * self.train.save_every_minutes or self.safety.preemption.requested:
            control.should_save, self.saved = True, now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was asked to stop has saved now."""
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.safety.preemption.requested:
            self.trainer.save_step_start()
            raise stopped(self.trainer.state)

    def _note_spike(self, step: int) -> None:
        watch = self.safety.parts.get("spikes")
        loss = float(sum(torch.stack(self.trainer.losses).tolist()))
        if isinstance(watch, SpikeWatch) and watch.update(loss):
            self.safety.log.note({"step": step, "spike": loss, "rows": (rows := self._ids_before())})
            say(f"  step {step}: the loss leaps to {loss:.3f}; look at the rows {listed(rows)}")

    def _ids_before(self) -> list[str]:
        """Row ids of the step that has just ended."""
        size = self.train.global_batch
        end = self.trainer.state.global_step * size
        return [self.trainer.run_rows.ids[index] for index in self.trainer.run_rows.order[end - size : end]]
