"""Checkpoints of a run: whole on disk or not there, digested, and only those of this very run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finetune.artifacts import atomic, provenance
from finetune.artifacts.hashing import canonical, sha256_file, sha256_text
from finetune.console import say
from finetune.errors import ConfigError, DataError, MachineError
from finetune.mirror import RECORD, Mirror

STEP, BEST = "step-", "best-"
SCHEMA = 1

Writers = Mapping[str, Callable[[BinaryIO], Any]]
"""What writes each file of a checkpoint, by the file's name."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files were read back and are those that were written. `facts` are the trainer's own."""

    folder: Path
    step: int
    facts: Mapping[str, Any]


class DamagedError(Exception):
    """A checkpoint that is not whole; the message says what is wrong with it."""


class Checkpoints:
    """The checkpoints of one run in one folder, the newest `keep` of them, copied to `mirror` where there is one."""

    def __init__(self, folder: Path, run: str, keep: int, mirror: Mirror | None = None) -> None:
        self.folder, self.run, self.keep, self.mirror = folder, run, keep, mirror
        atomic.make_folder(folder)
        atomic.remove_leftovers(folder)

    def newest(self) -> Checkpoint | None:
        """The last whole checkpoint, the mirror's where that is further; None where there is none.

        A damaged one is passed over and said. Raises ConfigError for one of another run or of other library versions,
        MachineError where the mirror fails and nothing is here.
        """
        found = self._newest_here()
        if self.mirror is not None:
            found = self._newest_of(self.mirror, found) or found
        if found is None and self._steps():
            say(f"{self.folder} holds no whole checkpoint; the run starts again")
        if found is not None:
            self._require_ours(found)
        return found

    def _newest_here(self) -> Checkpoint | None:
        for name in self._steps():
            try:
                return read(self.folder / name)
            except DamagedError as problem:
                say(f"{self.folder / name} is damaged ({problem}); trying the one before")
        return None

    def _newest_of(self, mirror: Mirror, here: Checkpoint | None) -> Checkpoint | None:
        """The mirror's last whole checkpoint beyond the one here, fetched with the best weights that it names."""
        try:
            for name in mirror.finished(STEP):
                if here is not None and name <= here.folder.name:
                    break
                try:
                    return self._fetched(mirror, name)
                except DamagedError as problem:
                    say(f"the mirror's {name} is damaged ({problem}); trying the one before")
        except (DataError, MachineError) as error:
            if here is None:
                raise
            say(f"note: {error}; going on from the checkpoint on this disk")
        return None

    def _fetched(self, mirror: Mirror, name: str) -> Checkpoint:
        """The best weights first: a checkpoint that is here counts, and then needs them."""
        record = _parsed(mirror.record(name))
        step = record["facts"].get("best_step")
        if step is not None:
            best = f"{BEST}{step:08d}"
            mirror.fetch(best, _parsed(mirror.record(best))["files"], self.folder)
            read(self.folder / best)
        mirror.fetch(name, record["files"], self.folder)
        return read(self.folder / name)

    def save(self, step: int, files: Writers, facts: Mapping[str, Any]) -> Checkpoint:
        """Write a checkpoint, read it back, and only then delete what is older than the newest `keep`."""
        made = self._write(f"{STEP}{step:08d}", step, files, facts)
        self._prune(made)
        return made

    def save_best(self, step: int, files: Writers) -> None:
        """Keep the weights of the best step so far beside the checkpoints; `save` deletes those no longer best."""
        self._write(f"{BEST}{step:08d}", step, files, {})

    def best(self, step: int) -> Checkpoint:
        """The kept weights of a step. Raises DataError where they are not whole."""
        folder = self.folder / f"{BEST}{step:08d}"
        try:
            return read(folder)
        except DamagedError as problem:
            raise DataError(f"{folder} is damaged ({problem}); delete {self.folder} to train again") from None

    def _prune(self, made: Checkpoint) -> None:
        """Delete the checkpoints beyond the newest `keep`, and best weights that none of those names.

        Those of later steps than the one just made are what a damaged or abandoned past left.
        """
        kept = [name for name in self._steps() if name <= made.folder.name][: self.keep]
        named = {record.get("facts", {}).get("best_step") for record in map(self._record, kept)}
        best = [f"{BEST}{step:08d}" for step in sorted(named - {None})]
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith((STEP, BEST)) and path.name not in {*kept, *best}:
                atomic.remove(path)
        if self.mirror is not None:
            self._copy(self.mirror, [*best, *reversed(kept)])

    def _copy(self, mirror: Mirror, names: list[str]) -> None:
        """The mirror is a second copy: where it fails the run goes on, and the next checkpoint tries again."""
        try:
            for name in names:
                mirror.put(self.folder / name)
            mirror.keep_only(names)
        except (DataError, MachineError) as error:
            say(
                f"note: {error}; the checkpoint is on this disk, train.mirror is tried again with the next one"
            )

    def _steps(self) -> list[str]:
        """Names of the checkpoints, whole or not, newest first."""
        return sorted((path.name for path in self.folder.glob(f"{STEP}*")), reverse=True)

    def _record(self, name: str) -> dict[str, Any]:
        try:
            return _read_record(self.folder / name)
        except DamagedError:
            return {}

    def _write(self, name: str, step: int, files: Writers, facts: Mapping[str, Any]) -> Checkpoint:
        target = self.folder / name
        with atomic.staged(target) as folder:
            for file, write in files.items():
                with atomic.created(folder / file) as stream:
                    write(stream)
            digests = {file: sha256_file(folder / file) for file in files}
            record = {"schema": SCHEMA, "run": self.run, "step": step, "facts": dict(facts), "files": digests}
            record |= {"versions": provenance.versions(), "code": provenance.code()["source"]}
            atomic.replace_text(folder / RECORD, json.dumps(sealed(record), indent=2) + "\n")
        try:
            return read(target)
        except DamagedError as problem:
            raise MachineError(
                f"{target} does not read back as written ({problem}); check the disk"
            ) from None

    def _require_ours(self, found: Checkpoint) -> None:
        copy = f" and {self.mirror.shown}" if self.mirror else ""
        record, again = _read_record(found.folder), f"delete {self.folder}{copy} to start the run again"
        if record["run"] != self.run:
            raise ConfigError(
                f"{found.folder} is of run {record['run']}, with other settings, base or data than {self.run}; {again}"
            )
        today = provenance.versions()
        other = [name for name, version in record["versions"].items() if today.get(name) != version]
        if other:
            made = ", ".join(f"{name} {record['versions'][name]}, now {today.get(name)}" for name in other)
            raise ConfigError(
                f"{found.folder} was written with {made}: a resumed run would not be exact; install that, or {again}"
            )
        if record["code"] != provenance.code()["source"]:
            say(f"note: {found.folder} was written by other code of ours than today's")


def read(folder: Path) -> Checkpoint:
    """A checkpoint whose files are those that were written. Raises DamagedError."""
    record = _read_record(folder)
    for file, digest in record["files"].items():
        if not (folder / file).is_file():
            raise DamagedError(f"{file} is missing")
        if sha256_file(folder / file) != digest:
            raise DamagedError(f"{file} is not as it was written")
    return Checkpoint(folder, record["step"], record["facts"])


FIELDS = {
    "run": str,
    "step": int,
    "facts": dict,
    "files": dict,
    "versions": dict,
    "code": str,
    "sha256": str,
}


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return _parsed((folder / RECORD).read_bytes())
    except OSError:
        raise DamagedError(f"no {RECORD}") from None


def _parsed(text: bytes) -> dict[str, Any]:
    """A checkpoint's record. Raises DamagedError, also where it names a file outside of its folder."""
    try:
        record: dict[str, Any] = json.loads(text)
        whole = record["schema"] == SCHEMA and all(
            isinstance(record[key], kind) for key, kind in FIELDS.items()
        )
        whole = whole and all(Path(name).name == name for name in record["files"])
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DamagedError(f"its {RECORD} is not one of schema {SCHEMA}")
    if record != sealed(record):
        raise DamagedError(f"{RECORD} is not as it was written")
    return record


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own digest: a step or an early-stopping count that flipped on disk must not go on."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return {**rest, "sha256": sha256_text(canonical(rest))}
