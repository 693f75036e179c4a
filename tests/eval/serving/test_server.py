"""A server is there when it is healthy and gone when it is left, however that happens."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from eval.serving.server import Limits, Running, serving
from finetune.errors import MachineError

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests" / "small_server.py"
HOLD = """
import os, sys, time
from pathlib import Path
from eval.serving.server import Limits, serving
with serving(sys.argv[2:], dict(os.environ), Path(sys.argv[1]), Limits(None, 60.0)) as running:
    print("up", flush=True)
    time.sleep(600)
"""


def command(folder: Path, behaviour: str) -> list[str]:
    return [sys.executable, str(SMALL), behaviour, str(folder / "pids")]


def served(
    folder: Path, behaviour: str, port: int | None = None, timeout_s: float = 60.0
) -> AbstractContextManager[Running]:
    limits = Limits(port, timeout_s)
    return serving(command(folder, behaviour), dict(os.environ), folder / "server.log", limits)


def pids(folder: Path) -> list[int]:
    """Of the server and its child."""
    return [int(item) for item in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def require_gone(folder: Path, within_s: float = 20.0) -> None:
    until = time.monotonic() + within_s
    while any(map(alive, pids(folder))):
        assert time.monotonic() < until, "a process of the server is still there"
        time.sleep(0.05)


def test_a_server_and_its_children_are_there_inside_and_gone_behind(tmp_path: Path) -> None:
    with served(tmp_path, "healthy") as running:
        assert all(map(alive, pids(tmp_path)))
        assert running.url.startswith("http://127.0.0.1:")
        assert not running.died()
    require_gone(tmp_path, 0.5)


def test_an_error_inside_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), served(tmp_path, "healthy"):
        raise KeyboardInterrupt
    require_gone(tmp_path, 0.5)


def test_a_keeper_that_was_killed_leaves_nothing_behind_either(tmp_path: Path) -> None:
    with served(tmp_path, "healthy") as running:
        running.process.kill()
        running.process.wait()
        assert all(map(alive, pids(tmp_path)))
    require_gone(tmp_path, 5.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_our_own_end_is_the_servers_end(tmp_path: Path, number: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "server.log"), *command(tmp_path, "healthy")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None
    assert any(line == "up\n" for line in holder.stdout)
    assert all(map(alive, pids(tmp_path)))
    holder.send_signal(number)
    require_gone(tmp_path)
    holder.wait(30)


def test_a_server_that_dies_names_its_log_and_not_what_stands_in_it(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught, served(tmp_path, "dies"):
        pass
    assert str(caught.value) == f"the server died; the last lines of {tmp_path / 'server.log'} say why"
    assert "no such model" in (tmp_path / "server.log").read_text()
    require_gone(tmp_path, 0.5)


def test_a_server_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    with (
        pytest.raises(
            MachineError, match=r"not healthy within serve\.start_timeout_s=3; see .*log, or raise"
        ),
        served(tmp_path, "hang", timeout_s=3.0),
    ):
        pass
    require_gone(tmp_path, 0.5)


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = rf"serve\.port={port} on 127.0.0.1 is not free"
        with pytest.raises(MachineError, match=told), served(tmp_path, "healthy", port=port):
            pass
    assert not (tmp_path / "pids").exists()


def test_of_an_answer_that_fails_the_cause_is_a_server_that_died(tmp_path: Path) -> None:
    with served(tmp_path, "healthy") as running:
        with pytest.raises(MachineError, match="slow"), running.watched():
            raise MachineError("slow")
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
        with pytest.raises(MachineError, match="the server died"), running.watched():
            raise MachineError("connection refused")
    require_gone(tmp_path, 0.5)
