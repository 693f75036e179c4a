"""SIGTERM, SIGINT and SIGHUP during training: stop at the next safe place; a second one at once."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from finetune.console import say
from finetune.errors import EXIT_PREEMPTED, EXIT_STOPPED, PreemptedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ECHO_S = 1.0
"""make, timeout and schedulers send the signal to a process and to its group: the same one so soon is no second one."""


class Interruption(KeyboardInterrupt):
    """Ends whatever a library is doing. transformers takes any Exception for a damaged weight and goes on without it
    (core_model_loading.py:1387 in 5.23), so that a stop while the base was loading looked like a bug of ours.
    """

    exit_code = EXIT_PREEMPTED


def stopped(state: Any) -> PreemptedError:
    """What a run says that was stopped in or after a trainer's step and has saved."""
    return PreemptedError(
        f"stopped after step {state.global_step} of {state.max_steps}; the same command goes on from there"
    )


class Preemption:
    """While entered, the first signal asks training to stop, or ends the stage where it is not training yet.

    Once `training` is set a checkpoint can be written: whoever trains asks `requested` at safe places and raises
    PreemptedError itself. A second signal ends the process with exit code 130; nothing is lost by it, as every
    file of a run folder is whole or not there.
    """

    def __init__(self) -> None:
        self.requested = self.training = False
        self.answer = "stopping at the end of this batch with a checkpoint"
        self.first: tuple[int, float] = (0, 0.0)
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        self.before = {number: signal.signal(number, self._asked) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Interruption):
            raise PreemptedError("stopped before a step was begun; run the same command again") from None

    def leave_training(self) -> None:
        """All is saved, and what comes next is long: a signal that came or comes ends the stage."""
        self.training = False
        if self.requested:
            raise PreemptedError("stopped between two steps; the same command goes on from there")

    def _asked(self, number: int, frame: FrameType | None) -> None:
        before, at = self.first
        if number == before and time.monotonic() - at < ECHO_S:
            return
        if self.requested:
            os._exit(EXIT_STOPPED)
        self.requested, self.first = True, (number, time.monotonic())
        if not self.training:
            raise Interruption
        with suppress(RuntimeError):  # the signal came amid another line, and Python lets nobody in between
            say(f"{signal.Signals(number).name}: {self.answer}; a second one stops at once")
