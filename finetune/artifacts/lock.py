"""Who holds a run folder."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import MachineError

LOCK = ".lock"
ASKING_S = 0.05
"""`in_use` holds the lock for microseconds while it asks; whoever meets it tries once more after this long."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone. Raises MachineError where another process does."""
    with (folder / LOCK).open("w") as stream:
        if not _taken(stream.fileno(), fcntl.LOCK_EX):
            time.sleep(ASKING_S)
            if not _taken(stream.fileno(), fcntl.LOCK_EX):
                raise MachineError(f"{folder} is in use by another process; wait for it, or stop it")
        yield


def in_use(folder: Path) -> bool:
    """Whether a process holds this folder now. Waits for nobody and holds nothing afterwards."""
    try:
        with (folder / LOCK).open("rb") as stream:
            return not _taken(stream.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _taken(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
