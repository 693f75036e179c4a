"""What a long copy says: bytes that are there, rate, and time left."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.console import PLAIN_INTERVAL_S, gigabytes, say

BAR_INTERVAL_S = 0.5


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder, those still being written included."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # renamed or deleted meanwhile
            continue
    return total


@contextmanager
def growing(folder: Path, total: int, label: str) -> Iterator[None]:
    """Watch a folder grow by `total` bytes: a bar on a terminal, a line every 15 seconds elsewhere."""
    done = threading.Event()
    show = _bar if sys.stdout.isatty() else _lines
    watcher = threading.Thread(
        target=show, args=(folder, bytes_below(folder), total, label, done), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _lines(folder: Path, before: int, total: int, label: str, done: threading.Event) -> None:
    started = time.monotonic()
    while not done.wait(PLAIN_INTERVAL_S):
        say(progress_line(label, bytes_below(folder) - before, total, time.monotonic() - started))


def progress_line(label: str, copied: int, total: int, seconds: float) -> str:
    """`  copied 1.5 GB of 6.0 GB, 100.0 MB/s, 45 s left`."""
    rate = max(copied, 1) / seconds
    left_s = max(total - copied, 0) / rate
    return f"  {label} {gigabytes(copied)} of {gigabytes(total)}, {gigabytes(rate)}/s, {left_s:.0f} s left"


def _bar(folder: Path, before: int, total: int, label: str, done: threading.Event) -> None:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(label, total=total)
        while not done.wait(BAR_INTERVAL_S):
            bar.update(task, completed=bytes_below(folder) - before)
        bar.update(task, completed=total)
