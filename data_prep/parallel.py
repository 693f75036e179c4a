"""Work on batches with every core, in order, so that the result does not depend on how many there are."""

import ctypes
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import Any, TypeVar

from finetune.errors import MachineError

Batch = TypeVar("Batch")
Result = TypeVar("Result")

PR_SET_PDEATHSIG = 1
WAITING = 2
"""Batches a worker may have ahead of it: enough to keep it busy, few enough to bound memory."""


def mapped(function: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    """The function's result for every batch, in the order of the batches, lazily.

    A single batch is worked on here: starting processes would take longer. Raises MachineError where a
    worker was killed.
    """
    rest = iter(batches)
    head = list(islice(rest, 2))
    if workers == 1 or len(head) < 2:
        yield from map(function, chain(head, rest))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(function,)
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for batch in chain(head, rest):
            waiting.append(pool.submit(_work, batch))
            if len(waiting) > WAITING * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise MachineError(
            "a worker process was killed, probably for want of memory; close other programs or lower hardware.workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_FUNCTION: list[Callable[[Any], Any]] = []


def _start(function: Callable[[Any], Any]) -> None:
    """Take the function once, with all that it carries; die with the parent, and leave Ctrl-C to it."""
    _FUNCTION[:] = [function]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(batch: Any) -> Any:
    return _FUNCTION[0](batch)


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of so many positions."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
