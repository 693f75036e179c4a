"""A second place for finished checkpoints, on any store that fsspec opens: a machine may vanish, its run goes on."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic
from finetune.console import say
from finetune.errors import DataError
from finetune.remote import open_store, plain_errors, shown

RECORD = "checkpoint.json"
KEY = "train.mirror"


@dataclass
class Mirror:
    """Copies of one run's checkpoints below `url`; a copy counts once its checkpoint.json is there, put last."""

    url: str

    def __post_init__(self) -> None:
        with plain_errors(self.url, KEY):
            self.system, self.root = open_store(self.url)

    def put(self, folder: Path) -> None:
        """Copy a finished checkpoint. Raises MachineError where the store fails: the local one is whole then."""
        with plain_errors(self.url, KEY):
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

    def fetch_newer(self, folder: Path, newest: Sequence[str]) -> None:
        """Copy the last finished checkpoint here, with the best weights it names, where it is further than `newest`."""
        with plain_errors(self.url, KEY):
            steps = sorted((name for name in self._names() if name.startswith("step-")), reverse=True)
            found = next((name for name in steps if self._is_finished(name)), None)
            if found is None or found <= max(newest, default=""):
                return
            say(f"fetching {found} from {shown(self.url)}")
            record = self._fetch(found, folder)
            best = record.get("facts", {}).get("best_step")
            if best is not None:
                self._fetch(f"best-{best:08d}", folder)

    def _fetch(self, name: str, into: Path) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.system.cat_file(self._at(name, RECORD)))
        if any(Path(file).name != file for file in record["files"]):
            raise DataError(f"{shown(self.url)}: {name} names a file outside of itself; delete it")
        with atomic.staged(into / name) as folder:
            for file in (*record["files"], RECORD):
                with (
                    atomic.created(folder / file) as stream,
                    self.system.open(self._at(name, file)) as source,
                ):
                    while block := source.read(1 << 24):
                        stream.write(block)
        return record

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
