"""A server on loopback: started, waited for, and stopped whatever happened."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eval.serving.keeper import GRACE_S
from finetune.artifacts import provenance
from finetune.console import PLAIN_INTERVAL_S, say
from finetune.errors import MachineError

HOST = "127.0.0.1"
ASK_S = 5.0
"""How long one question for its health may take."""
PAUSE_S = 0.5


@dataclass(frozen=True)
class Limits:
    """Which port a server gets (None: a free one), and how long it may take until it is healthy."""

    port: int | None
    start_timeout_s: float


@dataclass(frozen=True)
class Running:
    """A server that is healthy: its URL, its log, and the process that ends it."""

    url: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def died(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Of what goes wrong inside, the cause where the server died of it. Raises MachineError."""
        try:
            yield
        except MachineError:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)  # the connection breaks before the process is gone
            if self.died():
                raise MachineError(_death(self.log)) from None
            raise


@contextmanager
def serving(
    command: Sequence[str], variables: Mapping[str, str], log: Path, limits: Limits
) -> Iterator[Running]:
    """A healthy server, started by `command` with --host and --port behind it; gone when left, whatever happened.

    What it prints goes to `log`. Raises MachineError where the port is taken, or the server dies or is not healthy in
    time.
    """
    port = _port(limits.port)
    say(f"starting {Path(command[0]).name} on {HOST}:{port}; its log: {log}")
    running = _start([*command, "--host", HOST, "--port", str(port)], variables, log, port)
    try:
        _wait(running, limits.start_timeout_s)
        yield running
    finally:
        _stop(running.process)


def _port(asked: int | None) -> int:
    """Raises MachineError where the port that was asked for is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed one's is free
        try:
            probe.bind((HOST, asked or 0))
        except OSError as error:
            raise MachineError(
                f"serve.port={asked} on {HOST} is not free ({error.strerror}); stop what holds it, or set "
                "serve.port=null for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _start(command: Sequence[str], variables: Mapping[str, str], log: Path, port: int) -> Running:
    keeper = [sys.executable, "-P", "-c", _KEEPER, str(provenance.ROOT), *command]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            keeper,
            cwd=log.parent,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    return Running(f"http://{HOST}:{port}", log, process)


_KEEPER = (
    "import sys; sys.path.insert(0, sys.argv[1]); from eval.serving.keeper import keep; keep(sys.argv[2:])"
)
"""The keeper, from a folder that is not the repository: what it starts would find our packages there."""


def _wait(running: Running, timeout_s: float) -> None:
    import httpx

    started = told = time.monotonic()
    with httpx.Client(base_url=running.url, timeout=ASK_S, trust_env=False) as client:
        while time.monotonic() - started < timeout_s:
            if running.died():
                raise MachineError(_death(running.log))
            with suppress(httpx.HTTPError):
                if client.get("/health").status_code == httpx.codes.OK:
                    say(f"the server is healthy after {time.monotonic() - started:.0f} s")
                    return
            if time.monotonic() - told >= PLAIN_INTERVAL_S:
                told = time.monotonic()
                say(f"  waiting for the server, {told - started:.0f} of at most {timeout_s:.0f} s")
            time.sleep(PAUSE_S)
    raise MachineError(
        f"the server was not healthy within serve.start_timeout_s={timeout_s:g}; see {running.log}, or raise it"
    )


def _death(log: Path) -> str:
    return f"the server died; the last lines of {log} say why"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the keeper's pipe, by which it ends the server; then whatever is left of the group, should it have failed."""
    assert process.stdin is not None  # noqa: S101  (it was made a pipe)
    with suppress(OSError):
        process.stdin.close()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S + 5.0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
