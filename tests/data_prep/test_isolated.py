"""Processes that read files: what one dies of costs one file, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import hostile_files
import pytest

from data_prep.readers import Broken, Extracted, read_table, texts
from data_prep.readers.isolated import BUFFERED
from finetune.config.data import LimitsConfig
from finetune.errors import DataError, MachineError

ROOT = Path(__file__).resolve().parents[2]
LIMITS = LimitsConfig(memory_mib=512, seconds=30)
CRASHED = Broken("reader crashed (or needed more than 512 MiB)")
READ_SLOWLY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from pathlib import Path
from data_prep.readers import texts
from finetune.config.data import LimitsConfig
print(list(texts([Path(sys.argv[1])] * 4, LimitsConfig(), 2)))
"""


def good(folder: Path, name: str = "good.txt") -> Path:
    return hostile_files.file(name, f"words of {name}", folder)


def endless(folder: Path) -> Path:
    """A page whose parsing takes minutes."""
    return hostile_files.file("endless.html", "<div>" * 200_000 + "x", folder)


def children(parent: int) -> list[int]:
    """Process ids of the readers that a process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            ids = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(ids[1]) == parent and b"data_prep.readers.worker" in command:
            found.append(int(stat.parent.name))
    return found


def waited_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def is_busy(pid: int) -> bool:
    """Whether the process has been computing for a while, beyond its start."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]
    except OSError:
        return False
    return int(ticks) / os.sysconf("SC_CLK_TCK") > 0.8


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def killed_when_busy() -> Iterator[Future[None]]:
    """The kill of this process's reader as soon as it is stuck in a file; its result says that it happened."""

    def kill() -> None:
        assert waited_for(lambda: any(is_busy(pid) for pid in children(os.getpid())))
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(kill)


def test_a_killed_reader_costs_its_file_and_no_other(tmp_path: Path, killed_when_busy: Future[None]) -> None:
    found = list(texts([endless(tmp_path), good(tmp_path)], LIMITS, workers=1))
    killed_when_busy.result()
    assert found == [CRASHED, Extracted("words of good.txt", (), "utf-8")]


def test_a_reader_that_died_after_other_files_is_tried_again_in_a_fresh_one(
    tmp_path: Path, killed_when_busy: Future[None]
) -> None:
    found = list(texts([good(tmp_path), endless(tmp_path)], replace(LIMITS, seconds=8), workers=1))
    killed_when_busy.result()
    assert found[1] == Broken("took longer than 8 s")


def test_results_are_made_lazily_and_come_in_order(tmp_path: Path) -> None:
    class Counted(Sequence[Path]):
        asked = 0

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Path:  # type: ignore[override]
            self.asked = max(self.asked, index + 1)
            return files[index]

    files = [good(tmp_path, f"{number:03}.txt") for number in range(100)]
    counted = Counted()
    found = texts(counted, LIMITS, workers=2)
    assert next(found) == Extracted("words of 000.txt", (), "utf-8")
    assert counted.asked == 2 * BUFFERED
    assert [item.text for item in found if isinstance(item, Extracted)] == [
        f"words of {path.name}" for path in files[1:]
    ]
    assert children(os.getpid()) == []


def test_a_slow_consumer_is_no_slow_file(tmp_path: Path) -> None:
    files = [hostile_files.file(f"{number}.txt", "word " * 100_000, tmp_path) for number in range(3)]
    found = []
    for item in texts(files, replace(LIMITS, seconds=1), workers=1):
        time.sleep(1.2)
        found.append(type(item))
    assert found == [Extracted] * 3


def test_an_abandoned_reader_leaves_no_process(tmp_path: Path) -> None:
    found: Iterator[Extracted | Broken] = texts([good(tmp_path), *[endless(tmp_path)] * 5], LIMITS, workers=2)
    next(found)
    assert len(children(os.getpid())) == 2
    started = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert children(os.getpid()) == []
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_reader_outlives_a_parent_that_is_killed_or_interrupted(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", READ_SLOWLY, str(endless(tmp_path))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as parent:
        assert waited_for(lambda: len(children(parent.pid)) == 2)
        readers = children(parent.pid)
        assert waited_for(lambda: all(is_busy(pid) for pid in readers))
        parent.send_signal(number)
        parent.wait(30)
    assert waited_for(lambda: not any(is_alive(pid) for pid in readers), 5)


def test_a_reader_sees_no_secret_and_dumps_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "secret")
    found = texts([good(tmp_path)] * 20, LIMITS, workers=1)
    next(found)
    (pid,) = children(os.getpid())
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    core = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in line)
    assert core.split()[4:6] == ["0", "0"]
    found.close()  # type: ignore[attr-defined]


def test_a_missing_library_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pypdfium2.py").write_text("raise ModuleNotFoundError(name='pypdfium2')")
    monkeypatch.syspath_prepend(tmp_path)
    path = hostile_files.file("x.pdf", hostile_files.pdf(["words"]), tmp_path)
    with pytest.raises(MachineError, match="the Python package pypdfium2 is not installed; run `make setup`"):
        list(texts([path], LIMITS, workers=2))
    assert children(os.getpid()) == []


def test_a_parquet_file_that_takes_all_memory_is_one_line(tmp_path: Path) -> None:
    path = hostile_files.parquet({"text": ["x" * 50_000_000], "target": ["x"]}, tmp_path)
    with pytest.raises(DataError, match="rows.parquet: needed more than 64 MiB"):
        list(read_table(path, replace(LIMITS, memory_mib=64)))
    assert children(os.getpid()) == []


def test_four_hundred_small_files_take_seconds(tmp_path: Path) -> None:
    files = [good(tmp_path, f"{number}.txt") for number in range(400)]
    started = time.monotonic()
    assert sum(isinstance(item, Extracted) for item in texts(files, LIMITS, workers=2)) == 400
    assert time.monotonic() - started < 10
