"""Run folders: named by what made them, locked while written, finished by their manifest."""

import json
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from finetune.artifacts import atomic, provenance
from finetune.artifacts.hashing import HashCache, canonical, content_of, sha256_text
from finetune.artifacts.lock import LOCK, locked
from finetune.artifacts.manifest import (
    MANIFEST,
    SCHEMA,
    Artifact,
    Manifest,
    differences,
    plain,
    read_manifest,
)
from finetune.artifacts.stages import COMMANDS, SUFFIXES, folder_of
from finetune.config.schema import PathsConfig
from finetune.console import say
from finetune.errors import ConfigError, DataError

CHECKPOINTS = "checkpoints"
"""Subfolder from which an interrupted run goes on: no part of a finished one, and gone once the manifest is there."""


@dataclass(frozen=True)
class Spec:
    """What decides a run folder: stage, the stage's own version, name, config sections, inputs."""

    stage: str
    version: int
    name: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]

    def run(self) -> str:
        """8 hex digits: the same settings and inputs give the same run."""
        contents = {key: item["content"] for key, item in self.inputs.items()}
        identity = {"stage": self.stage, "version": self.version, **plain(self.config), "inputs": contents}
        return sha256_text(canonical(identity))[:8] + SUFFIXES.get(self.stage, "")


@dataclass
class Output:
    """A run folder being written. Every file in it is made through this object or at `path(name)`."""

    folder: Path
    finished: Artifact | None = None
    """Set when this very run was finished before and its files are intact: nothing to do."""
    counts: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    seal: Callable[[Mapping[str, str]], None] | None = None
    """Called with the digest of every file, manifest.json included, just before the manifest comes into place."""

    def made(self) -> Artifact:
        """The finished artifact, once `writing` has been left without an error."""
        if self.finished is None:
            raise RuntimeError(f"{self.folder} is still being written")
        return self.finished

    def path(self, name: str) -> Path:
        """Where a library may write one file or folder of this run."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def write_text(self, name: str, text: str) -> None:
        """Write one whole text file."""
        self.path(name).write_text(text, encoding="utf-8")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one whole binary file."""
        with atomic.created(self.path(name)) as stream:
            stream.write(data)

    def copy(self, source: Path, name: str) -> None:
        """Write one file as another one is."""
        with source.open("rb") as stream, atomic.created(self.path(name)) as target:
            shutil.copyfileobj(stream, target)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON object, indented, with its `schema`."""
        self.write_text(name, json.dumps({"schema": SCHEMA, **value}, indent=2, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line."""
        with self.path(name).open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for this run's temporary files, gone afterwards; a killed run's is cleared by the next one."""
        path = self.path("scratch")
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            atomic.remove(path)

    def append(self, name: str) -> TextIO:
        """A line-buffered text stream for a log of this run; the caller closes it."""
        return self.path(name).open("a", encoding="utf-8", buffering=1)


@contextmanager
def writing(
    paths: PathsConfig, spec: Spec, *, move_current: bool, kept: Collection[str] = ()
) -> Iterator[Output]:
    """A locked run folder; on leaving without an error its manifest is written and `current` moved where asked.

    Where the run is finished and intact, `finished` is set and nothing may be written. What an
    interrupted run left behind is cleared first, but for the names in `kept`, from which it can go on.
    Raises MachineError where the folder is in use.
    """
    parent = folder_of(Path(paths.artifacts_root), spec.stage, spec.name)
    folder = parent / spec.run()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    started = time.monotonic()
    with locked(folder):
        output = Output(folder, finished=_intact(paths, folder))
        if output.finished is None:
            _clear(folder, kept)
        yield output
        if output.finished is None:
            _finish(paths, spec, output, time.monotonic() - started)
        atomic.remove(folder / CHECKPOINTS)
        atomic.remove_leftovers(folder)
        if move_current:
            atomic.replace_text(parent / "current", folder.name + "\n")


def open_current(
    paths: PathsConfig, stage: str, name: str, config: Mapping[str, Any], run: str | None
) -> Artifact:
    """The last finished artifact of a stage, or run `run` of it, with its files checked.

    Without `run` the recorded config must equal today's. Raises ConfigError (never made, unfinished,
    other settings, key by key) or DataError (damaged).
    """
    if run is not None:
        return open_run(paths, stage, name, run)
    artifact = open_last(paths, stage, name)
    problems = list(differences(artifact.manifest.config, plain(config)))
    if problems:
        raise ConfigError(
            [f"{line} in {artifact.folder}; {COMMANDS[stage]}, or name a run with RUN=" for line in problems]
        )
    return artifact


def has_current(paths: PathsConfig, stage: str, name: str) -> bool:
    """Whether a run of this stage was ever finished under this name."""
    return (folder_of(Path(paths.artifacts_root), stage, name) / "current").is_file()


def finished(paths: PathsConfig, stage: str, name: str) -> list[Manifest]:
    """The manifests of all finished runs of a stage under a name; their files are not checked.

    Raises DataError where one is damaged.
    """
    parent = folder_of(Path(paths.artifacts_root), stage, name)
    folders = sorted(path.parent for path in parent.glob(f"[!.]*/{MANIFEST}"))
    found = [read_manifest(folder, COMMANDS[stage]) for folder in folders]
    return [manifest for manifest in found if manifest.stage == stage]


def open_last(paths: PathsConfig, stage: str, name: str) -> Artifact:
    """The last finished run, whatever its settings. Raises ConfigError where there is none."""
    parent = folder_of(Path(paths.artifacts_root), stage, name)
    if not has_current(paths, stage, name):
        raise ConfigError(f"{parent} has no finished run; {COMMANDS[stage]}")
    return open_run(paths, stage, name, (parent / "current").read_text().strip())


def open_run(paths: PathsConfig, stage: str, name: str, run: str) -> Artifact:
    """One finished run by its id, with its files checked against the manifest."""
    folder = folder_of(Path(paths.artifacts_root), stage, name) / run
    manifest = read_manifest(folder, COMMANDS[stage])
    artifact = Artifact(folder, manifest)
    _check_files(paths, artifact)
    if (
        manifest.code.get("source") != provenance.code()["source"]
        or manifest.versions != provenance.versions()
    ):
        _note_once(folder)
    return artifact


@cache
def _note_once(folder: Path) -> None:
    """Say it the first time that a process opens the folder."""
    say(f"note: {folder} was made by other code or library versions than today's")


def open_input(paths: PathsConfig, artifact: Artifact, key: str) -> Artifact:
    """The very input that `artifact` was made from. Raises ConfigError where it is gone or has changed."""
    recorded = artifact.manifest.inputs[key]
    found = open_run(paths, recorded["stage"], recorded["name"], recorded["run"])
    require_input(artifact, key, found)
    return found


def require_input(artifact: Artifact, key: str, found: Artifact) -> None:
    """Refuse when `artifact` was made from another input than `found`. Raises ConfigError."""
    recorded = artifact.manifest.inputs[key]
    if recorded["content"] != found.manifest.content:
        raise ConfigError(
            f"{artifact.folder} was made from {key} {recorded['name']}/{recorded['run']} "
            f"(content {recorded['content'][:8]}), but {key} is now {found.manifest.name}/{found.manifest.run} "
            f"(content {found.manifest.content[:8]}); {COMMANDS[artifact.manifest.stage]}"
        )


def _intact(paths: PathsConfig, folder: Path) -> Artifact | None:
    if not (folder / MANIFEST).is_file():
        return None
    artifact = Artifact(folder, read_manifest(folder, "run the stage again"))
    _check_files(paths, artifact)
    return artifact


def _check_files(paths: PathsConfig, artifact: Artifact) -> None:
    cache = HashCache(Path(paths.artifacts_root), paths.rehash)
    for item in artifact.manifest.files:
        path = artifact.folder / item["path"]
        if not path.is_file():
            raise DataError(
                f"{path} is missing; delete {artifact.folder} and {COMMANDS[artifact.manifest.stage]}"
            )
        if path.stat().st_size != item["bytes"] or cache.digest(path) != item["sha256"]:
            raise DataError(
                f"{path} differs from its manifest (sha256 {item['sha256'][:8]} expected); "
                f"delete {artifact.folder} and {COMMANDS[artifact.manifest.stage]}"
            )
    cache.save()


def _finish(paths: PathsConfig, spec: Spec, output: Output, seconds: float) -> None:
    files = _listed(paths, output.folder)
    manifest = Manifest(
        schema=SCHEMA,
        stage=spec.stage,
        name=spec.name,
        run=spec.run(),
        config=plain(spec.config),
        inputs={key: dict(item) for key, item in spec.inputs.items()},
        files=files,
        content=content_of(files),
        counts=output.counts,
        overrides=output.overrides,
        facts=output.facts,
        code=provenance.code(),
        versions=provenance.versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        seconds=round(seconds, 1),
    )
    text = json.dumps(manifest.__dict__, indent=2, sort_keys=True) + "\n"
    if output.seal is not None:
        output.seal({item["path"]: item["sha256"] for item in files} | {MANIFEST: sha256_text(text)})
    atomic.replace_text(output.folder / MANIFEST, text)
    output.finished = Artifact(output.folder, manifest)


def _listed(paths: PathsConfig, folder: Path) -> list[dict[str, Any]]:
    """The files of a finished run for its manifest, each of them and its name on disk before that is."""
    cache = HashCache(Path(paths.artifacts_root), rehash=False)
    files: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or path.name == LOCK or name.parts[0] == CHECKPOINTS:
            continue
        path.chmod(0o600)
        atomic.sync(path)
        files.append({"path": str(name), "bytes": path.stat().st_size, "sha256": cache.digest(path)})
    cache.save()
    for parent in {(folder / item["path"]).parent for item in files}:
        atomic.sync(parent)
    return files


def _clear(folder: Path, kept: Collection[str]) -> None:
    for path in folder.iterdir():
        if path.name != LOCK and path.name not in kept:
            atomic.remove(path)
