"""What a stage says to the person at the terminal: plain lines, and progress for long work."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
Sized = TypeVar("Sized", bound=Collection[Any])

PLAIN_INTERVAL_S = 15.0
LIVE_INTERVAL_S = 1.0
BAR_WIDTH = 16


def say(line: str) -> None:
    """Write one line to standard output at once; where the terminal is gone the work goes on unheard."""
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def complain(line: str) -> None:
    """Write one line to standard error at once; the exit code tells where nobody reads it."""
    with suppress(OSError):
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
    """Lines such as `train 40/94, 120 s left` at most every 15 seconds, and the last one."""

    def __init__(self, label: str, total: int, start: int = 0) -> None:
        self.label, self.total, self.start = label, total, start
        self.started = self.last = time.monotonic()

    def update(self, done: int, note: str = "", left_s: float | None = None) -> None:
        """Say where the work stands if the last line is old enough or the work is done.

        The time left is what the work since `start` took a piece, unless the caller knows better.
        """
        now = time.monotonic()
        if now - self.last < PLAIN_INTERVAL_S and done < self.total:
            return
        self.last = now
        if left_s is None:
            left_s = (now - self.started) / max(done - self.start, 1) * (self.total - done)
        say(f"  {self.label} {done}/{self.total}, {left_s:.0f} s left{', ' + note if note else ''}")

    def close(self) -> None:
        """Nothing is open."""


class LiveProgress:
    """A bar with a note and the time left, drawn anew at most once a second, when something has changed."""

    def __init__(self, label: str, total: int, start: int = 0) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        count = f"{label} {{task.completed:.0f}}/{total}"
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what a narrow terminal cuts
        columns = (
            TextColumn(count, table_column=Column(min_width=len(f"{label} {total}/{total}"), no_wrap=True)),
            BarColumn(bar_width=BAR_WIDTH, table_column=Column(min_width=BAR_WIDTH)),
            TextColumn("{task.fields[note]}", markup=False, table_column=rest),
        )
        # no thread of its own draws: it would take turns with the work
        self.bar = Progress(*columns, auto_refresh=False, expand=True)
        self.task = self.bar.add_task(label, total=total, completed=start, note="")
        self.total, self.last = total, 0.0
        self.bar.start()

    def update(self, done: int, note: str = "", left_s: float | None = None) -> None:
        """Move the bar; the caller knows how long the rest will take, or nobody does yet."""
        now = time.monotonic()
        if now - self.last < LIVE_INTERVAL_S and done < self.total:
            return
        self.last = now
        left = [] if left_s is None else [f"{clock(left_s)} left"]
        with suppress(OSError):  # the terminal is gone
            self.bar.update(self.task, completed=done, note=", ".join([*left, *([note] if note else [])]))
            self.bar.refresh()

    def close(self) -> None:
        """Leave the terminal as it was."""
        with suppress(OSError):
            self.bar.stop()


def live(label: str, total: int, start: int = 0) -> PlainProgress | LiveProgress:
    """Progress of work that goes on from `start`: drawn on a terminal, plain lines elsewhere."""
    return (LiveProgress if sys.stdout.isatty() else PlainProgress)(label, total, start)


def clock(seconds: float) -> str:
    """`42 s`, `3 min`, `1 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def gigabytes(count: float) -> str:
    """Bytes in GB (10^9), or in MB below one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def visible(text: str) -> str:
    """The text with control characters spelled out: a document must not steer the terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shortened(text: str, characters: int) -> str:
    """The two ends of a long text, and how many characters were left out between them."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"
