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
    sync(path.parent)


def make_folder(path: Path) -> None:
    """A folder of its owner alone, with those above it; nothing happens where it is there."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file to write bytes to, on disk when left; readable by its owner alone."""
    try:
        with path.open("wb") as stream:
            path.chmod(0o600)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise


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
        sync(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    doomed = _set_aside(target) if target.exists() else None
    partial.rename(target)
    sync(target.parent)
    if doomed is not None:
        shutil.rmtree(doomed)


def remove(path: Path) -> None:
    """Delete a file or folder: by its name it is there whole or not at all. Nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path if path.name.startswith(DOOMED) else _set_aside(path))
    else:
        path.unlink(missing_ok=True)


def adopt(path: Path, target: Path) -> None:
    """The same file under another name too, in place of whatever stood there; a copy where the disk knows no links."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, target)
        target.chmod(0o600)


def _set_aside(path: Path) -> Path:
    """The folder under a name that says it is to be deleted."""
    doomed = path.with_name(DOOMED + path.name)
    if doomed.exists():
        shutil.rmtree(doomed)
    return path.rename(doomed)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was still writing or deleting in a folder.

    A folder that was to be replaced and whose new one did not come comes back: its digests say whether it is whole.
    """
    for path in sorted(folder.glob(f"{DOOMED}*")):
        target = path.with_name(path.name.removeprefix(DOOMED))
        if path.with_name(PARTIAL + target.name).exists() and not target.exists():
            path.rename(target)
        else:
            remove(path)
    for path in sorted(folder.glob(f"{PARTIAL}*")):
        remove(path)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
