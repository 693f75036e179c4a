"""Files and folders that are either the old one or the whole new one, even after a power cut."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL, DOOMED = ".partial-", ".doomed-"


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the whole new one."""
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.chmod(0o600)
    partial.replace(path)


def make_folder(path: Path) -> None:
    """A folder of its owner alone, with those above it; nothing happens where it is there."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file to write bytes to, on disk when left; readable by its owner alone."""
    with path.open("wb") as stream:
        path.chmod(0o600)
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when left without an error; else nothing is left of it.

    A `target` that is there already stays until the new one takes its place.
    """
    partial = target.with_name(PARTIAL + target.name)
    remove(partial)
    partial.mkdir(parents=True, mode=0o700)
    try:
        yield partial
        sync_folder(partial)
        remove(target)
        partial.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Delete a file or folder: by its name it is there whole or not at all. Nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if path.name.startswith(DOOMED) else path.with_name(DOOMED + path.name)
        if doomed != path:
            remove(doomed)
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was still writing or deleting in a folder."""
    for path in [*folder.glob(f"{PARTIAL}*"), *folder.glob(f"{DOOMED}*")]:
        remove(path)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, not only the files behind them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
