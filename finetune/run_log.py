"""What a training run says while it runs: log.jsonl, the tracker, the terminal."""

import json
import math
import time
from contextlib import suppress
from typing import Any, TextIO

from transformers import TrainerCallback

from finetune.artifacts import Output, atomic
from finetune.console import PlainProgress
from finetune.errors import RefusedError
from finetune.tracking import Tracker

METRICS = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/lr"}


def rewind(output: Output, name: str, step: int) -> None:
    """Drop the rows of a log beyond `step`, which the run will write again, and what a kill left of a last line."""
    path = output.path(name)
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            kept += [line] if json.loads(line).get("step", 0) <= step else []
    atomic.replace_text(path, "".join(f"{line}\n" for line in kept))


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Every logged step goes to log.jsonl, the tracker and the terminal; a loss that is no number stops the run."""

    def __init__(self, stream: TextIO, tracker: Tracker, total: int) -> None:
        self.stream, self.tracker = stream, tracker
        self.progress = PlainProgress("train", total)
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """TRL logs every few steps; the last one counts too."""
        if state.global_step == state.max_steps:
            control.should_log = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Record one row; raise RefusedError on a NaN or infinite loss."""
        if not logs or "loss" not in logs:
            return
        values = {name: float(logs[key]) for key, name in METRICS.items() if key in logs}
        values["train/tokens"] = float(state.num_input_tokens_seen)
        values["train/tokens_per_s"] = state.num_input_tokens_seen / (time.monotonic() - self.started)
        self.stream.write(json.dumps({"step": state.global_step, **values}) + "\n")
        self.tracker.log(values, step=state.global_step)
        note = f"loss {values['train/loss']:.3f}, {values['train/tokens_per_s']:.0f} tokens/s"
        self.progress.update(state.global_step, note)
        if not all(math.isfinite(value) for value in values.values()):
            raise RefusedError(
                f"step {state.global_step}: loss or gradient is not a number; lower train.lr or look at the rows"
            )
