"""What a stage says to the person at the terminal: plain lines, and progress for long work."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Sized = TypeVar("Sized", bound=Collection[Any])

PLAIN_INTERVAL_S = 15.0


def say(line: str) -> None:
    """Write one line to standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Write one line to standard error at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def quiet_libraries() -> None:
    """Silence the libraries' hints about their own options, which the config decides; HALLMARK_VERBOSE=1 shows them."""
    if os.environ.get("HALLMARK_VERBOSE"):
        return
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def progress(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The same items, with a bar and an estimate on a terminal, and a plain line now and then elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import track

        yield from track(items, description=label, total=total)
        return
    ticker = PlainProgress(label, total)
    for done, item in enumerate(items, 1):
        yield item
        ticker.update(done)


def counted(batches: Iterable[Sized], label: str) -> Iterator[Sized]:
    """The same batches, with a line now and then that says how many items have gone by: the end is not known."""
    last, done = time.monotonic(), 0
    for batch in batches:
        yield batch
        done += len(batch)
        if time.monotonic() - last >= PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(f"  {label} {done:,}")


class PlainProgress:
    """Lines such as `train 40/94, 120 s left` at most every 15 seconds."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total = label, total
        self.started = self.last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Say where the work stands if the last line is old enough or the work is done."""
        now = time.monotonic()
        if now - self.last < PLAIN_INTERVAL_S and done < self.total:
            return
        self.last = now
        left_s = (now - self.started) / max(done, 1) * (self.total - done)
        say(f"  {self.label} {done}/{self.total}, {left_s:.0f} s left{', ' + note if note else ''}")
