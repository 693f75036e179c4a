"""A process between us and a server: it ends the server, and all that this one started, when we end, however we end.

It has a session of its own, and a pipe as standard input whose other end we hold: that closes when we stop the server,
and also when we are killed without a chance to.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

POLL_S = 0.1
GRACE_S = 15.0
"""Between the request to end and the kill."""


def keep(command: Sequence[str]) -> None:
    """Run the command until it ends or standard input does; then nothing of its process group is left, we included."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of the pipe says it, and nobody says it twice
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_as_usual)
    while server.poll() is None and not _over(POLL_S):
        pass
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
    else:
        sys.stderr.write(f"the server ended by itself with exit code {server.returncode}\n")
        sys.stderr.flush()
        _wait_for_end()
    os.killpg(0, signal.SIGKILL)


def _as_usual() -> None:
    """Signals that are ignored stay so in a child."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _over(wait_s: float) -> bool:
    """Whether standard input has ended; waits so long for it."""
    ready, _, _ = select.select([0], [], [], wait_s)
    return bool(ready) and not os.read(0, 1)


def _wait_for_end() -> None:
    """Leave children of a server that died a moment to say why in the log."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until and not _over(POLL_S):
        pass
