"""Processes that read hostile files for us, each with a time and a memory limit; a dead one costs one file."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from data_prep.readers.extracted import Broken, Extracted, UnreadableError
from finetune.config.data import LimitsConfig
from finetune.errors import MachineError

START_S = 120
"""For a process to start on a busy machine; the limits count from the first request."""
CHUNK = 1 << 20
BUFFERED = 4
"""Files in hand for each worker: enough that one slow file leaves the others busy."""
INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
"""No secret of the environment reaches a process that a hostile file might take over."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONHASHSEED": "0",
}
"""Threads and their heaps would count against the memory limit."""


class SuspectError(UnreadableError):
    """A failure that what earlier files left in the process may have caused: worth another try in a fresh one."""


class Worker:
    """A process that reads one file after the other; started when first needed, and again after it died."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.reads = 0
        """Files asked of the process that runs now."""
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._is_stopped = False
        self._lock = threading.Lock()

    def ask(self, task: str, path: Path) -> Iterator[dict[str, Any]]:
        """What the task makes of the file, lazily. Raises UnreadableError with the reason, or MachineError."""
        is_done = False
        try:
            self._start()
            self.reads += 1
            self._send({"task": task, "path": str(path)})
            while "value" in (answer := self._answer(self.limits.seconds)):
                yield answer["value"]
            is_done = not answer.keys() & {"exhausted", "failed"}
            self._raise_for(answer)
        except TimeoutError:
            raise UnreadableError(f"took longer than {self.limits.seconds} s") from None
        except (EOFError, OSError, ValueError):
            raise SuspectError(f"reader crashed (or needed more than {self.limits.memory_mib} MiB)") from None
        finally:
            if not is_done:
                self._end()

    def stop(self) -> None:
        """End the process from any thread, for good; whoever waits for its answer gets an error."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process and wait for it; from the thread that asks."""
        self.stop()
        self._end()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        try:
            with self._lock:
                if self._is_stopped:
                    raise EOFError
                self._process = _process(self.limits)
            self._answer(START_S)
        except (EOFError, OSError, ValueError):
            raise MachineError(
                f"no process to read files started within {START_S} s; see free memory"
            ) from None

    def _end(self) -> None:
        process, self._process = self._process, None
        self._rest, self.reads = b"", 0
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _send(self, request: dict[str, str]) -> None:
        pipe = self._process.stdin if self._process else None
        if pipe is not None:
            pipe.write(json.dumps(request).encode() + b"\n")

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line, waited for so long. Raises TimeoutError; EOFError where the process ended."""
        pipe = self._process.stdout if self._process else None
        if pipe is None:
            raise EOFError
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        chunks = [self._rest]
        while b"\n" not in chunks[-1]:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            chunks.append(os.read(pipe.fileno(), CHUNK))
            if not chunks[-1]:
                raise EOFError
        line, _, self._rest = b"".join(chunks).partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _raise_for(self, answer: dict[str, Any]) -> None:
        if "broken" in answer:
            raise UnreadableError(answer["broken"])
        if "missing" in answer:
            raise MachineError(f"the Python package {answer['missing']} is not installed; run `make setup`")
        if "failed" in answer:
            raise SuspectError(f"reader failed ({answer['failed']})")
        if "exhausted" in answer:
            raise SuspectError(f"needed more than {self.limits.memory_mib} MiB")


def _process(limits: LimitsConfig) -> "subprocess.Popen[bytes]":
    # a new process and no fork: it inherits nothing of the parent's memory, nor, with a session of its own, its Ctrl-C
    command = [
        sys.executable,
        "-P",
        "-m",
        "data_prep.readers.worker",
        json.dumps(asdict(limits)),
        str(os.getpid()),
    ]
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    search = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    return subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a library's complaint may quote the file
        env=environment | ONE_THREAD | {"PYTHONPATH": search},
        start_new_session=True,
    )


def texts(files: Sequence[Path], limits: LimitsConfig, workers: int) -> Iterator[Extracted | Broken]:
    """The text of each file or why there is none, lazily and in the files' order, whatever the number of workers.

    Raises MachineError where a library is missing or no process starts.
    """
    pool = [Worker(limits) for _ in range(max(1, min(workers, len(files))))]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in pool:
        idle.put(worker)
    threads = ThreadPoolExecutor(len(pool))
    waiting: deque[Future[Extracted | Broken]] = deque()
    try:
        for path in files:
            waiting.append(threads.submit(_read_idle, idle, path))
            if len(waiting) >= BUFFERED * len(pool):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for worker in pool:
            worker.stop()
        threads.shutdown(cancel_futures=True)
        for worker in pool:
            worker.close()


def _read_idle(idle: "SimpleQueue[Worker]", path: Path) -> Extracted | Broken:
    worker = idle.get()
    try:
        return _read(worker, path)
    finally:
        idle.put(worker)


def _read(worker: Worker, path: Path) -> Extracted | Broken:
    is_used = worker.reads > 0
    try:
        (found,) = worker.ask("text", path)
    except SuspectError as error:
        # what earlier files left in memory must not decide: the verdict is a fresh process's
        return _read(worker, path) if is_used else Broken(error.reason)
    except UnreadableError as error:
        return Broken(error.reason)
    return Extracted(found["text"], tuple(found["pages"]), found["extractor"])
