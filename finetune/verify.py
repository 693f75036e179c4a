"""`make verify EXPORT=dir KEY=pub`: is every byte of an export as it was signed? Needs the folder and the key alone."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts.hashing import content_of, sha256_file
from finetune.artifacts.lock import LOCK
from finetune.artifacts.manifest import MANIFEST, Manifest, read_manifest
from finetune.console import gigabytes, say
from finetune.errors import ConfigError, DataError
from finetune.signing import SIGNATURE, require_signed, signed_digests
from finetune.stage import guarded

SHOWN = 5
"""Problems that are named; of more, how many there are."""


@dataclass(frozen=True)
class Verified:
    """An export whose files are as its manifest and signature state them."""

    folder: Path
    manifest: Manifest
    digests: dict[str, str]
    """sha256 of each file, manifest.json included."""
    key: str | None
    """The id of the key whose signature holds. None: no key was given, so nobody vouches for the folder."""


def verify(folder: Path, public: Path | None = None, digest: Callable[[Path], str] = sha256_file) -> Verified:
    """The export, where each of its files is as signed and there is no other.

    Without `public`, files, manifest and signature must agree with each other, which whoever changed all three can
    arrange. Raises ConfigError where there is no such folder or key, DataError naming each file that differs.
    """
    if not folder.is_dir():
        raise ConfigError(f"EXPORT={folder} is not a folder; give the export's run folder")
    digests = {name: digest(path) for name, path in files_of(folder).items()}
    problems = list(_unlike(signed_digests(folder / SIGNATURE), digests))
    if problems:
        more = [f"{len(problems) - SHOWN} more files differ"] if len(problems) > SHOWN else []
        raise DataError([f"{folder / problem}" for problem in problems[:SHOWN]] + more)
    manifest = read_manifest(folder, "copy it again")
    _require_listed(folder, manifest, digests)
    key = require_signed(folder, digests, public) if public else None
    return Verified(folder, manifest, digests, key)


def files_of(folder: Path) -> dict[str, Path]:
    """Every file that must be signed, by its name below the folder. Raises DataError for a link or a special file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError(f"{path} is a link or no plain file, which nobody signed; remove it")
        is_lock = name == LOCK and path.stat().st_size == 0
        if path.is_file() and name != SIGNATURE and not is_lock:
            found[name] = path
    return found


def _unlike(signed: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(signed.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in signed:
            yield f"{name} is not among the signed files"
        elif signed[name] != found[name]:
            yield f"{name} was changed: sha256 {found[name][:8]}, signed {signed[name][:8]}"


def _require_listed(folder: Path, manifest: Manifest, digests: Mapping[str, str]) -> None:
    """The manifest is signed too; it must list the very files that are."""
    listed = {item["path"]: item["sha256"] for item in manifest.files}
    sizes = {item["path"]: item["bytes"] for item in manifest.files}
    files = {name: digest for name, digest in digests.items() if name != MANIFEST}
    is_same = listed == files and manifest.content == content_of(manifest.files)
    if not is_same or any((folder / name).stat().st_size != size for name, size in sizes.items()):
        raise DataError(f"{folder / MANIFEST} lists other files than those that were signed")


def told(found: Verified) -> Iterator[str]:
    """What was verified, in a few lines."""
    manifest = found.manifest
    size = sum(item["bytes"] for item in manifest.files)
    yield (
        f"{manifest.stage} {manifest.name}/{manifest.run}, content {manifest.content[:16]}, made {manifest.created}"
    )
    yield (
        f"  {len(found.digests)} files, {gigabytes(size)}: each as manifest and signature state it, and no other file"
    )
    if found.key is None:
        yield "  NOT asked who signed it: give KEY=<public key of the team that made it>"
    else:
        yield f"  signed by the key {found.key[:16]}"
    head = manifest.facts.get("audit")
    if head:
        yield f"  audit trail: {head['entries']} entries before the export, the last {head['sha256'][:16]}"
    for override in manifest.overrides:
        yield f"  exported against a gate: {override}"


def main(argv: list[str]) -> None:
    """Verify the export of the command line and say what was found."""
    given = _arguments(argv)
    if not given.export:
        raise ConfigError("EXPORT= is not given; name the export's run folder")
    public = Path(given.key).expanduser() if given.key else None
    for line in told(verify(Path(given.export).expanduser(), public)):
        say(line)


def _arguments(argv: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="finetune.verify", description=__doc__)
    parser.add_argument("--export", default="", help="the export's run folder")
    parser.add_argument("--key", default="", help="the public key of the team that made it, a PEM file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
