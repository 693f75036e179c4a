"""Signals as training meets them, sent to this very process."""

import io
import os
import signal
import sys
from contextlib import suppress

import pytest

from finetune.errors import PreemptedError
from finetune.preemption import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_request_while_training_and_ends_the_stage_before(number: int) -> None:
    with Preemption() as preemption:
        preemption.training = True
        os.kill(os.getpid(), number)
        assert preemption.requested
        with pytest.raises(PreemptedError, match="stopped between two steps"):
            preemption.leave_training()
    with pytest.raises(PreemptedError, match="before a step was begun"), Preemption():
        os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not preemption.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_takes_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True))
    with pytest.raises(BrokenPipeError):
        sys.stdout.write("nobody reads this")
    with Preemption() as preemption:
        preemption.training = True
        os.kill(os.getpid(), signal.SIGHUP)
        assert preemption.requested


def test_a_signal_amid_a_line_of_the_same_process_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python refuses to write from a handler to a stream that is just being written to."""

    class Busy:
        def write(self, text: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    monkeypatch.setattr(sys, "stdout", Busy())
    with Preemption() as preemption:
        preemption.training = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested


def test_a_signal_before_training_is_no_exception_that_a_library_takes_for_a_damaged_weight() -> None:
    with pytest.raises(PreemptedError, match="before a step was begun"), Preemption(), suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)
