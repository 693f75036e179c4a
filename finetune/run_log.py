"""What a training run says while it runs: log.jsonl, the tracker, the terminal."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from transformers import TrainerCallback

from finetune.artifacts.manifest import SCHEMA
from finetune.console import LiveProgress, PlainProgress, live
from finetune.errors import RefusedError
from finetune.expected import Expected
from finetune.log_rows import Row, line_of, told
from finetune.peak_memory import peak_bytes, reset_peak
from finetune.tracking import Tracker

METRICS = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/lr",
    "val/loss": "val/loss",
    "val/exact_match": "val/exact_match",
}
"""What the trainer calls it, and what everybody else does."""
WINDOW = 10
"""Log rows over which the recent rates are taken."""
GIB = 2**30


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Every logged step goes to log.jsonl, the tracker and the terminal; a loss that is no number stops the run.

    `stream`: log.jsonl, open to append. `expected`: what the run takes. `cuda`: whose memory counts. `history`: of a
    resumed run what `restored` gave, the same that `tracking.open_run` takes; None for a run that starts. The step it
    goes on from is the trainer's own, when training begins. Use it as a context manager: it leaves the terminal as it
    was, whatever ends the run.

    Rates are of this process and without what `pause` covers: `train/tokens_per_s` and `train/mfu` over the last 10
    log rows, `train/tokens_per_s_total` since the process began to train.
    """

    def __init__(
        self,
        stream: TextIO,
        tracker: Tracker,
        expected: Expected,
        cuda: bool = False,
        history: Sequence[Row] | None = None,
    ) -> None:
        self.stream, self.tracker, self.expected, self.cuda = stream, tracker, expected, cuda
        self.seconds_before = max((float(row.get("seconds", 0.0)) for row in history or ()), default=0.0)
        self.opened = self.started = time.monotonic()
        self.paused_s = 0.0
        self.window: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self.progress: PlainProgress | LiveProgress | None = None
        self.said, self.tokens_per_s = "", 0.0
        self.lines = [line_of(row) for row in history or ()]
        if not any("total_steps" in row for row in history or ()):
            self.note(self._header())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.close()

    def note(self, row: Row) -> None:
        """Write a row to log.jsonl alone."""
        self.lines.append(line_of(row))
        self.stream.write(self.lines[-1])

    def text(self) -> str:
        """What log.jsonl holds up to now, for a checkpoint."""
        return "".join(self.lines)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside, a validation or a checkpoint, takes no time of the steps'."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.paused_s += time.monotonic() - began

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first step's time begins; what loading held is no part of a step."""
        reset_peak(self.cuda)
        self.started, self.paused_s, self.first = time.monotonic(), 0.0, state.global_step
        self.window.clear()
        self.window.append((self.first, 0.0))
        self.__exit__()
        self.progress = live("train", self.expected.steps, self.first)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar. TRL logs every few steps; the last one counts too."""
        if state.global_step == state.max_steps:
            control.should_log = True  # and its row moves the bar
        elif self.progress is not None:
            self.progress.update(state.global_step, self.said, self._left_s(state.global_step))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Record one row; raise RefusedError on a NaN or infinite loss."""
        found = {name: float(logs[key]) for key, name in METRICS.items() if logs and key in logs}
        if not found:
            return
        step, values = state.global_step, dict[str, float | None](found)
        if "train/loss" in found:
            values |= self._measured(step)
        seconds = self.seconds_before + time.monotonic() - self.opened
        self.note({"step": step, "seconds": round(seconds, 3), **values})
        self.tracker.log(values, step=step)
        if not all(math.isfinite(value) for value in found.values()):
            raise RefusedError(
                f"step {step}: loss or gradient is not a number; lower train.lr or look at the rows"
            )
        if "train/loss" in found and self.progress is not None:
            self.said = told(values, self.expected.peak_gib)
            self.progress.update(step, self.said, self._left_s(step))

    def _header(self) -> Row:
        """The first line of log.jsonl: what the run is going to take."""
        expected = self.expected
        sizes = {"total_steps": expected.steps, "total_tokens": expected.tokens[-1]}
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return {"schema": SCHEMA, "started": started, **sizes, "planned_peak_gib": expected.peak_gib}

    def _measured(self, step: int) -> dict[str, float | None]:
        """Tokens, speed and memory at a step; what cannot be told is None."""
        expected, now = self.expected, time.monotonic() - self.started - self.paused_s
        before, then = self.window[0]
        self.window.append((step, now))
        tokens, recent_s = expected.tokens, max(now - then, 1e-9)
        self.tokens_per_s = (tokens[step] - tokens[before]) / recent_s
        bytes_, flops = peak_bytes(self.cuda), expected.flops[step] - expected.flops[before]
        gib = None if bytes_ is None else bytes_ / GIB
        return {
            "train/tokens": float(tokens[step]),
            "train/trained_tokens": float(expected.trained_tokens[step]),
            "train/tokens_per_s": self.tokens_per_s,
            "train/tokens_per_s_total": (tokens[step] - tokens[self.first]) / max(now, 1e-9),
            "train/mfu": flops / recent_s / (1e12 * expected.bf16_tflops) if expected.bf16_tflops else None,
            "train/peak_memory_gib": gib,
            "train/peak_memory_over_plan": gib / expected.peak_gib if gib and expected.peak_gib else None,
        }

    def _left_s(self, step: int) -> float | None:
        """By the tokens that are left and the recent speed; None before it is known."""
        if not self.tokens_per_s:
            return None
        return (self.expected.tokens[-1] - self.expected.tokens[step]) / self.tokens_per_s
