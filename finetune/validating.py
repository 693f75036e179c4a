"""Validation between two steps of a run: logged, judged, the best weights kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import TrainerCallback

from finetune.chat import Encoded
from finetune.config.schema import BestMetric, TrainConfig
from finetune.console import say
from finetune.early_stopping import BestSoFar
from finetune.errors import MachineError, PreemptedError
from finetune.exact_trainer import ExactTrainer, Safety
from finetune.guards import is_out_of_memory, release_memory
from finetune.model import Loaded
from finetune.preemption import stopped
from finetune.training_state import weight_files
from finetune.validation import exact_match, validation_loss

T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut:
    """The rows to validate on, as prepared and encoded, and the batch of training that bounds the memory."""

    rows: Sequence[Mapping[str, Any]]
    encoded: Sequence[Encoded]
    batch_rows: int
    batch_tokens: int


class Validating(TrainerCallback):  # type: ignore[misc]
    """Validates every so many steps and after the last; stops the run where patience has run out.

    Where memory runs out the batch halves, for the rest of the run: the loss is the mean over the trained tokens at
    any batch. A part of the checkpoints for that.
    """

    def __init__(
        self, loaded: Loaded, held_out: HeldOut, train: TrainConfig, trainer: ExactTrainer, safety: Safety
    ) -> None:
        self.loaded, self.held_out, self.train = loaded, held_out, train
        self.trainer, self.safety = trainer, safety
        self.batch_rows, self.batch_tokens = held_out.batch_rows, held_out.batch_tokens
        self.best = BestSoFar.of(train)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"batch_rows": self.batch_rows, "batch_tokens": self.batch_tokens}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; training's batch may be smaller by now."""
        self.batch_rows = min(self.batch_rows, state["batch_rows"])
        self.batch_tokens = min(self.batch_tokens, state["batch_tokens"])

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Between the optimizer's step and the checkpoint, which then knows of it.

        Raises PreemptedError after a signal and MachineError where one row does not fit, with a checkpoint as of
        before the validation.
        """
        every = self.train.validate_every_steps
        if every is None or (state.global_step % every and state.global_step != state.max_steps):
            return
        with self.safety.log.pause():
            try:
                values = self.measure(model)
            except (PreemptedError, MachineError):
                self.trainer.save_step_end()
                raise
            judgement = self.best.update(state.global_step, values[METRICS[self.train.best_metric]])
            if judgement.improved:
                self.safety.checkpoints.save_best(state.global_step, weight_files(model))
        self.safety.log.on_log(args, state, control, values)
        if judgement.should_stop:
            control.should_training_stop = control.should_log = True

    def measure(self, network: Any) -> dict[str, float]:
        """Loss per trained token, and greedy exact match where it decides."""

        def loss() -> float:
            rows, tokens = self.batch_rows, self.batch_tokens
            encoded = self.held_out.encoded
            return validation_loss(network, encoded, rows, tokens, between=self._stop_if_asked).loss

        def matches() -> float:
            loaded = Loaded(network, self.loaded.tokenizer, self.loaded.renderer)
            return exact_match(loaded, self.held_out.rows, self.batch_rows, between=self._stop_if_asked)

        values = {METRICS[BestMetric.validation_loss]: self._fitting(loss)}
        if self.train.best_metric is BestMetric.exact_match:
            values[METRICS[BestMetric.exact_match]] = self._fitting(matches)
        return values

    def _stop_if_asked(self) -> None:
        """Between two batches: a validation may be long, and who sends a signal does not wait."""
        if self.safety.preemption.requested:
            raise stopped(self.trainer.state)

    def _fitting(self, measure: Callable[[], T]) -> T:
        """What `measure` gives, with the largest batch that fits."""
        while True:
            try:
                return measure()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()  # out here the error, which holds the tensors of its frames, is gone
            release_memory()

    def _halve(self) -> None:
        step, before = self.trainer.state.global_step, self.batch_rows
        if before == 1:
            raise MachineError(
                f"step {step}: out of memory validating one row at a time; free memory, and the same command goes on "
                "from there, or set train.validate_every_steps=null or a lower train.max_tokens"
            )
        self.batch_rows, self.batch_tokens = before // 2, self.batch_tokens // 2
        self.safety.log.note(
            {"step": step, "out_of_memory_at_validation_batch": before, "validation_batch": self.batch_rows}
        )
        say(f"  step {step}: out of memory validating {before} rows at once; again with {self.batch_rows}")


METRICS = {BestMetric.validation_loss: "val/loss", BestMetric.exact_match: "val/exact_match"}
