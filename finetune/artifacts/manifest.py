"""manifest.json: what a run folder holds, what made it, and whether it is still that."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError, DataError

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The fields of manifest.json as the design's contract names them."""

    schema: int
    stage: str
    name: str
    run: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    files: list[dict[str, Any]]
    content: str
    counts: dict[str, Any]
    overrides: list[str]
    facts: dict[str, Any]
    """What only this stage knows: base and template hashes, quantised modules, trained tokens."""
    code: dict[str, Any]
    versions: dict[str, str]
    created: str
    host: str
    seconds: float


@dataclass(frozen=True)
class Artifact:
    """A finished run folder whose files were checked against its manifest."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        return self.folder / name


def plain(section: Any) -> Any:
    """A config section as JSON values: enums by name, and without what decides how a run is run, not what it makes."""
    value = section
    if is_dataclass(section):
        counted = [item.name for item in fields(section) if item.metadata.get("identity", True)]
        value = {name: getattr(section, name) for name in counted}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.name if isinstance(value, Enum) else value


def input_record(artifact: Artifact) -> dict[str, str]:
    """How a manifest names an input: stage, name, run, content."""
    found = artifact.manifest
    return {"stage": found.stage, "name": found.name, "run": found.run, "content": found.content}


def read_manifest(folder: Path, how_to_make: str) -> Manifest:
    """The manifest of a finished folder.

    Raises ConfigError where it is missing (never made, or stopped half way), DataError where it is damaged.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist; {how_to_make}")
    if not path.is_file():
        raise ConfigError(f"{folder} is unfinished: it has no {MANIFEST}; {how_to_make}")
    try:
        return Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise DataError(
            f"{path} is damaged: not a manifest of schema {SCHEMA}; delete {folder} and {how_to_make}"
        ) from None


def differences(recorded: Any, today: Any, prefix: str = "") -> Iterator[str]:
    """Lines `key is A today, but B …` for every key that differs, in order."""
    if isinstance(recorded, Mapping) and isinstance(today, Mapping):
        for key in sorted(recorded.keys() | today.keys()):
            yield from differences(
                recorded.get(key), today.get(key), f"{prefix}.{key}" if prefix else str(key)
            )
    elif recorded != today:
        yield f"{prefix}={json.dumps(today)} today, but {json.dumps(recorded)}"
