"""The audit trail of an experiment: audit/<name>.jsonl, a line an event, each with the digest of the line before it.

A service that every stage uses; stages are recorded in finetune/stage.py alone, from their manifests.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from finetune.artifacts import Artifact, Manifest, atomic
from finetune.artifacts.hashing import canonical, sha256_file, sha256_text
from finetune.artifacts.manifest import MANIFEST, SCHEMA, read_manifest
from finetune.artifacts.stages import FOLDERS, folder_of
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import DataError, HallmarkError

Entry = dict[str, Any]

START = "0" * 64
"""What the first line names as the digest of the line before it."""
SHARED = ("base", "quantised", "data")
"""Stages whose folders several experiments share: recorded where one is returned, or as an input."""
SETTING = re.compile(r"\b[a-z]+(?:\.[a-z_0-9]+)+")


@dataclass(frozen=True)
class Head:
    """How many lines a chain has and the sha256 of the last: what a signed export remembers of it."""

    entries: int
    sha256: str

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"entries": self.entries, "sha256": self.sha256}


def trail_of(paths: PathsConfig, name: str) -> Path:
    """The file that holds an experiment's trail."""
    return Path(paths.artifacts_root) / "audit" / f"{name}.jsonl"


def read_trail(paths: PathsConfig, name: str) -> list[Entry]:
    """The entries of an experiment, in order; none where nothing was recorded.

    Raises DataError, with file and line, where a line was changed, removed, added or moved.
    """
    return [entry for entry, _ in _lines(paths, name)]


def head_of(paths: PathsConfig, name: str) -> Head:
    """The end of an experiment's chain as it stands. Raises DataError as `read_trail` does."""
    lines = _lines(paths, name)
    return Head(len(lines), lines[-1][1] if lines else START)


def require_head(paths: PathsConfig, name: str, head: Mapping[str, Any], where: str) -> None:
    """Raise DataError where the chain is not the one whose end `where` remembers."""
    path, lines = trail_of(paths, name), _lines(paths, name)
    entries = int(head["entries"])
    if len(lines) < entries:
        raise DataError(f"{path} line {len(lines) + 1} is missing: {where} remembers {entries} lines")
    if entries and lines[entries - 1][1] != head["sha256"]:
        raise DataError(f"{path} line {entries} is not the one that {where} remembers; lines were rewritten")


def record_finished(run: RunConfig, artifact: Artifact, since: float) -> None:
    """Add what a stage returned and what else was made under its name since `since`, each with its overrides.

    Inputs that the trail does not know yet go before them, as `used`. What it knows is not added again.
    """
    _record(run, [*_made_since(run, since), artifact.folder], "finished", [])


def record_inputs(run: RunConfig, inputs: Iterable[Artifact]) -> Head:
    """Add what a stage is about to use and the trail does not know yet; the end of the chain after it."""
    _record(run, [artifact.folder for artifact in inputs], "used", [])
    return head_of(run.paths, run.name)


def record_refused(run: RunConfig, stage: str, problems: Sequence[str], since: float) -> None:
    """Add that a stage was refused and which settings its problems name: no word of the problems themselves.

    A report or plan that was written before it was refused is added as well.
    """
    settings = sorted({key for line in problems for key in _settings(run, line)})
    refusal = {"event": "refused", "stage": stage, "problems": len(problems), "settings": settings}
    _record(run, _made_since(run, since), "finished", [refusal])


def _record(run: RunConfig, folders: Iterable[Path], event: str, events: Sequence[Entry]) -> None:
    path = trail_of(run.paths, run.name)
    with _held(path) as stream:
        stream.seek(0)
        lines = _checked(path, stream.read())
        known = {_identity(entry) for entry, _ in lines}
        found = [entry for folder in folders for entry in _events(run.paths, folder, event, known)]
        _append(path, stream, lines, [*found, *events])


def _append(
    path: Path, stream: BinaryIO, lines: Sequence[tuple[Entry, str]], events: Sequence[Entry]
) -> None:
    """Write and fsync the events as lines; then the head, so that a lost last line is seen."""
    if not events:
        return
    index, previous = len(lines), lines[-1][1] if lines else START
    stream.truncate(
        sum(len(canonical(entry).encode()) + 1 for entry, _ in lines)
    )  # a torn line of a killed process
    stream.seek(0, os.SEEK_END)
    for event in events:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        text = canonical({"schema": SCHEMA, "index": index, "previous": previous, "time": now, **event})
        stream.write(text.encode() + b"\n")
        index, previous = index + 1, sha256_text(text)
    stream.flush()
    os.fsync(stream.fileno())
    head = {"schema": SCHEMA, **Head(index, previous).record()}
    atomic.replace_text(path.with_suffix(".head"), json.dumps(head) + "\n")


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The file, alone: other stages of the experiment wait the milliseconds that this takes."""
    atomic.make_folder(path.parent)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        path.chmod(0o600)
        yield stream


def _lines(paths: PathsConfig, name: str) -> list[tuple[Entry, str]]:
    path = trail_of(paths, name)
    if not path.is_file():
        return _checked(path, b"")
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # never between a line and its head
        return _checked(path, stream.read())


def _checked(path: Path, data: bytes) -> list[tuple[Entry, str]]:
    """Each line's entry and digest. Raises DataError where the chain does not hold."""
    *texts, _ = data.split(b"\n")  # what follows the last newline was never finished
    head = _read_head(path, len(texts))
    lines: list[tuple[Entry, str]] = []
    previous = START
    for number, text in enumerate(texts, 1):
        entry = _entry(path, number, text)
        if entry["index"] != number - 1:
            raise DataError(
                f"{path} line {number} says that it is line {entry['index'] + 1}: lines were removed, added or moved"
            )
        if entry["previous"] != previous:
            raise DataError(
                f"{path} line {max(number - 1, 1)} was changed after line {number} had been written"
            )
        previous = sha256_text(text.decode())
        lines.append((entry, previous))
        if number == head.entries and previous != head.sha256:
            raise DataError(f"{path} line {number} was changed after it had been written")
    if len(lines) < head.entries:
        raise DataError(f"{path} line {len(lines) + 1} is missing: {head.entries} were written")
    return lines


def _entry(path: Path, number: int, text: bytes) -> Entry:
    try:
        entry = json.loads(text)
        if canonical(entry).encode() == text and isinstance(entry["index"], int) and "previous" in entry:
            return dict(entry)
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} line {number} is damaged: no entry as the stages write it")


def _read_head(path: Path, lines: int) -> Head:
    """What was written last; of the very first line a killed process may have left none."""
    file = path.with_suffix(".head")
    if not file.is_file():
        if lines > 1:
            raise DataError(f"{file} is missing: it says where {path.name} ends, line {lines} as it stands")
        return Head(0, START)
    try:
        found = json.loads(file.read_text())
        return Head(int(found["entries"]), str(found["sha256"]))
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{file} is damaged: it says where {path.name} ends, line {lines} as it stands"
        ) from None


def _events(paths: PathsConfig, folder: Path, event: str, known: set[tuple[Any, ...]]) -> Iterator[Entry]:
    """The entry of a finished folder behind those of its inputs, and one for each override; `known` takes them."""
    made = read_manifest(folder, "run the stage again")
    entry = {"event": event, **_facts(made, sha256_file(folder / MANIFEST))}
    if _identity(entry) in known:
        return
    known.add(_identity(entry))
    for record in made.inputs.values():
        yield from _used(paths, record, known)
    yield entry
    for override in made.overrides:
        yield {"event": "override", "stage": made.stage, "run": made.run, "override": override}


def _used(paths: PathsConfig, record: Mapping[str, str], known: set[tuple[Any, ...]]) -> Iterator[Entry]:
    """The entries of an input that is a finished folder of ours and still there."""
    if record["stage"] not in FOLDERS:
        return
    folder = folder_of(Path(paths.artifacts_root), record["stage"], record["name"]) / record["run"]
    try:
        yield from _events(paths, folder, "used", known)
    except HallmarkError:  # gone since: the input's content stands in the entry that used it
        return


def _facts(made: Manifest, digest: str) -> Entry:
    return {
        "stage": made.stage,
        "name": made.name,
        "run": made.run,
        "content": made.content,
        "manifest": digest,
        "inputs": {key: item["content"] for key, item in made.inputs.items()},
        "commit": made.code.get("commit", ""),
        "created": made.created,
    }


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in ("stage", "name", "run", "manifest"))


def _made_since(run: RunConfig, since: float) -> list[Path]:
    """Folders of this experiment alone whose manifest is that new, the oldest first."""
    root = Path(run.paths.artifacts_root)
    parents = {folder_of(root, stage, run.name) for stage in FOLDERS if stage not in SHARED}
    times = {
        path.parent: path.stat().st_mtime for parent in parents for path in parent.glob(f"[!.]*/{MANIFEST}")
    }
    new = [folder for folder, written in times.items() if written >= since - 1]
    return sorted(new, key=lambda folder: times[folder])


def _settings(run: RunConfig, line: str) -> Iterator[str]:
    """The settings that a problem names; of entries that a person named, such as train.mix.x, only the table."""
    for found in SETTING.findall(line):
        node, known = run, list[str]()
        for part in found.split("."):
            if part not in getattr(node, "__dataclass_fields__", {}):
                break
            node, known = getattr(node, part), [*known, part]
        if len(known) > 1:
            yield ".".join(known)
