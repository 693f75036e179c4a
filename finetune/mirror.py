"""A second place for finished checkpoints, on any store that fsspec opens: a machine may vanish, its run goes on."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune.artifacts import atomic
from finetune.console import say
from finetune.remote import open_store, plain_errors, shown

RECORD = "checkpoint.json"
"""Written last into a checkpoint, here and there: what it is of, and the digest of every other file."""
KEY = "train.mirror"
BLOCK = 1 << 24
"""Bytes read at once."""


@dataclass
class Mirror:
    """Copies of one run's checkpoints below `url`; a copy counts once its checkpoint.json is there, put last.

    Every method raises MachineError or DataError where the store fails. One machine at a time may write to it.
    """

    url: str

    def __post_init__(self) -> None:
        with plain_errors(self.url, KEY):
            self.system, self.root = open_store(self.url)

    @property
    def shown(self) -> str:
        """The URL without what is secret in it."""
        return shown(self.url)

    def put(self, folder: Path) -> None:
        """Copy a checkpoint whose very copy is not there yet."""
        with plain_errors(self.url, KEY):
            if self._is_finished(folder.name) and self._read(folder.name) == (folder / RECORD).read_bytes():
                return
            self._remove(folder.name)
            names = [path.name for path in sorted(folder.iterdir()) if path.name != RECORD]
            self.system.makedirs(self._at(folder.name), exist_ok=True)
            for name in [*names, RECORD]:
                self.system.put_file(str(folder / name), self._at(folder.name, name))

    def keep_only(self, names: Collection[str]) -> None:
        """Delete every other copy."""
        with plain_errors(self.url, KEY):
            for name in self._names():
                if name not in names:
                    self._remove(name)

    def finished(self, prefix: str) -> list[str]:
        """Names of the whole copies that begin so, the last first."""
        with plain_errors(self.url, KEY):
            names = sorted((name for name in self._names() if name.startswith(prefix)), reverse=True)
            return [name for name in names if self._is_finished(name)]

    def record(self, name: str) -> bytes:
        """The checkpoint.json of a copy."""
        with plain_errors(self.url, KEY):
            return self._read(name)

    def fetch(self, name: str, files: Iterable[str], into: Path) -> None:
        """Copy these files of a checkpoint, and its record, to a folder of that name here."""
        say(f"fetching {name} from {self.shown}")
        with plain_errors(self.url, KEY), atomic.staged(into / name) as folder:
            for file in (*files, RECORD):
                with (
                    atomic.created(folder / file) as stream,
                    self.system.open(self._at(name, file)) as source,
                ):
                    while block := source.read(BLOCK):
                        stream.write(block)

    def _read(self, name: str) -> bytes:
        found: bytes = self.system.cat_file(self._at(name, RECORD))
        return found

    def _is_finished(self, name: str) -> bool:
        return bool(self.system.exists(self._at(name, RECORD)))

    def _names(self) -> list[str]:
        self.system.invalidate_cache()
        if not self.system.exists(self.root):
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in self.system.ls(self.root, detail=False)]

    def _remove(self, name: str) -> None:
        """The record first: what is half deleted does not count."""
        if self._is_finished(name):
            self.system.rm_file(self._at(name, RECORD))
        if self.system.exists(self._at(name)):
            self.system.rm(self._at(name), recursive=True)

    def _at(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])
