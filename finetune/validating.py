"""Validation between two steps of a run: logged, judged, the best weights kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from finetune.chat import Encoded
from finetune.checkpoint import Checkpoints
from finetune.config.schema import BestMetric, TrainConfig
from finetune.early_stopping import BestSoFar
from finetune.model import Loaded
from finetune.run_log import RunLog
from finetune.training_state import weight_files
from finetune.validation import exact_match, validation_loss


@dataclass(frozen=True)
class HeldOut:
    """The rows to validate on, as prepared and encoded, and the batch of training that bounds the memory."""

    rows: Sequence[Mapping[str, Any]]
    encoded: Sequence[Encoded]
    batch_rows: int
    batch_tokens: int


class Validating(TrainerCallback):  # type: ignore[misc]
    """Validates every so many steps and after the last; stops the run where patience has run out."""

    def __init__(
        self, loaded: Loaded, held_out: HeldOut, train: TrainConfig, log: RunLog, store: Checkpoints
    ) -> None:
        self.loaded, self.held_out, self.train, self.log, self.store = loaded, held_out, train, log, store
        self.best = BestSoFar.of(train)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Between the optimizer's step and the checkpoint, which then knows of it."""
        every = self.train.validate_every_steps
        if every is None or (state.global_step % every and state.global_step != state.max_steps):
            return
        with self.log.pause():
            values = self.measure(model)
            judgement = self.best.update(state.global_step, values[METRICS[self.train.best_metric]])
            if judgement.improved:
                self.store.save_best(state.global_step, weight_files(model))
        self.log.on_log(args, state, control, values)
        if judgement.should_stop:
            control.should_training_stop = control.should_log = True

    def measure(self, network: Any) -> dict[str, float]:
        """Loss per trained token, and greedy exact match where it decides."""
        held_out = self.held_out
        found = validation_loss(network, held_out.encoded, held_out.batch_rows, held_out.batch_tokens)
        values = {METRICS[BestMetric.validation_loss]: found.loss}
        if self.train.best_metric is BestMetric.exact_match:
            loaded = Loaded(network, self.loaded.tokenizer, self.loaded.renderer)
            values[METRICS[BestMetric.exact_match]] = exact_match(loaded, held_out.rows, held_out.batch_rows)
        return values


METRICS = {BestMetric.validation_loss: "val/loss", BestMetric.exact_match: "val/exact_match"}
