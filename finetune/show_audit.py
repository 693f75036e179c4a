"""`make audit CONF=x`: is the trail whole, and how did an export come about, from raw data to signature?"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune import artifacts
from finetune.artifacts import Artifact
from finetune.artifacts.hashing import HashCache, sha256_file
from finetune.artifacts.manifest import MANIFEST, read_manifest
from finetune.artifacts.stages import COMMANDS, FOLDERS, folder_of
from finetune.audit import SHARED, Entry, head_of, read_trail, require_head, trail_of
from finetune.config import RunConfig, load
from finetune.console import say
from finetune.errors import DataError
from finetune.signing import public_of
from finetune.stage import guarded
from finetune.verify import verify

MADE = ("finished", "used")


def lines(run: RunConfig) -> Iterator[str]:
    """The history of the current export, or of RUN=; of all that was recorded where nothing is exported yet.

    Raises DataError where a line of the trail, a manifest that it recorded or a signed export contradicts another.
    """
    entries, path = read_trail(run.paths, run.name), trail_of(run.paths, run.name)
    if not entries:
        yield f"{path}: nothing recorded yet; run a stage"
        return
    _require_manifests(run, entries)
    _require_heads(run)
    head = head_of(run.paths, run.name)
    yield f"{path}: {head.entries} entries, each with the digest of the one before; the last is {head.sha256[:16]}"
    export = _export(run)
    kept = set(range(len(entries))) if export is None else _ancestry(entries, export)
    for number, entry in enumerate(entries, 1):
        if number - 1 in kept:
            yield f"  {number:>3} {entry['time']} {_told(entry)}"
    if export is None:
        yield f"no export yet; {COMMANDS['export'].replace('CONF=…', f'CONF={run.name}')}"
    else:
        yield from _signature(run, export)


def _export(run: RunConfig) -> Artifact | None:
    if run.run is not None:
        return artifacts.open_run(run.paths, "export", run.name, run.run)
    if not artifacts.has_current(run.paths, "export", run.name):
        return None
    return artifacts.open_last(run.paths, "export", run.name)


def _ancestry(entries: Sequence[Entry], export: Artifact) -> set[int]:
    """The lines that led to an export: what it was made from, their overrides, and every refusal until then."""
    end = _last(entries, export.manifest.stage, export.manifest.run)
    wanted, kept = {export.manifest.content}, set[int]()
    for index in range(end, -1, -1):
        entry = entries[index]
        if entry["event"] in MADE and entry["content"] in wanted:
            wanted |= set(entry["inputs"].values())
            kept.add(index)
        elif entry["event"] == "refused":
            kept.add(index)
    runs = {(entries[index]["stage"], entries[index]["run"]) for index in kept if "run" in entries[index]}
    overrides = (index for index, entry in enumerate(entries) if entry["event"] == "override")
    return kept | {index for index in overrides if (entries[index]["stage"], entries[index]["run"]) in runs}


def _last(entries: Sequence[Entry], stage: str, run: str) -> int:
    found = [
        index
        for index, entry in enumerate(entries)
        if entry["event"] in MADE and (entry["stage"], entry["run"]) == (stage, run)
    ]
    if not found:
        raise DataError(f"the trail has no line of {stage} run {run}, which is there; lines were removed")
    return found[-1]


def _told(entry: Entry) -> str:
    if entry["event"] == "refused":
        named = f", over {', '.join(entry['settings'])}" if entry["settings"] else ""
        return f"refused   {entry['stage']}: {entry['problems']} problems{named}"
    if entry["event"] == "override":
        return f"override  {entry['stage']} {entry['run']}: {entry['override']}"
    inputs = ", ".join(f"{key} {content[:8]}" for key, content in entry["inputs"].items())
    how = "" if entry["event"] == "finished" else ", made before or for another experiment"
    return f"{entry['stage']:<9} {entry['name']}/{entry['run']} content {entry['content'][:8]} from {inputs}{how}"


def _signature(run: RunConfig, export: Artifact) -> Iterator[str]:
    cache = HashCache(Path(run.paths.artifacts_root), run.paths.rehash)
    public = public_of(Path(run.paths.artifacts_root), export.folder)
    found = verify(export.folder, public, cache.digest)
    by = (
        f"by the key {public}"
        if found.key
        else "by a key whose public half is not here: make verify KEY= asks"
    )
    yield f"signed {by}; every file of {export.folder} is as it was signed"


def _require_manifests(run: RunConfig, entries: Sequence[Entry]) -> None:
    """What is still there must be what was recorded last of it."""
    last: dict[Path, tuple[int, Entry]] = {}
    for number, entry in enumerate(entries, 1):
        if entry["event"] in MADE and entry["stage"] in FOLDERS:
            parent = folder_of(Path(run.paths.artifacts_root), entry["stage"], entry["name"])
            last[parent / entry["run"]] = (number, entry)
    problems = [
        f"{folder / MANIFEST} is not the one that {trail_of(run.paths, run.name)} line {number} recorded"
        for folder, (number, entry) in last.items()
        if (folder / MANIFEST).is_file() and not _is_recorded(folder, entry)
    ]
    if problems:
        raise DataError(problems)


def _is_recorded(folder: Path, entry: Entry) -> bool:
    if sha256_file(folder / MANIFEST) == entry["manifest"]:
        return True
    # another experiment may have made the same data or base again
    return entry["stage"] in SHARED and read_manifest(folder, "make it again").content == entry["content"]


def _require_heads(run: RunConfig) -> None:
    """The chain must be the one whose end each finished export carries."""
    for manifest in artifacts.finished(run.paths, "export", run.name):
        head: Mapping[str, str] | None = manifest.facts.get("audit")
        if head:
            require_head(run.paths, run.name, head, f"the signed export {run.name}/{manifest.run}")


def show(run: RunConfig) -> None:
    """Print the history of an export."""
    for line in lines(run):
        say(line)


if __name__ == "__main__":
    sys.exit(guarded(lambda: show(load(sys.argv[1:]))))
