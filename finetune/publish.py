"""`make publish EXPORT=dir TO=URL`: a version at <TO>/<name>/<run>/, read back before `current` names it."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.artifacts.manifest import MANIFEST
from finetune.config.checks import NAME
from finetune.console import progress, say
from finetune.errors import ConfigError, DataError
from finetune.remote import open_store, plain_errors, shown
from finetune.signing import SIGNATURE, require_signed, signed_digests
from finetune.stage import guarded
from finetune.verify import Verified, verify

KEY = "TO="
CURRENT = "current"
BLOCK = 1 << 24
"""Bytes read at once."""


@dataclass
class Shop:
    """The versions of one model below a URL, and `current`, the file that names the one to serve.

    Every method raises ConfigError, DataError or MachineError where the store fails.
    """

    url: str
    name: str

    def __post_init__(self) -> None:
        with plain_errors(self.url, KEY):
            self.system, self.root = open_store(self.url)

    def put(self, found: Verified) -> None:
        """Copy what is not there yet, the manifest last. Raises DataError where the version has other bytes already."""
        run = found.manifest.run
        with plain_errors(self.url, KEY):
            self.system.invalidate_cache()
            if self.system.exists(self._at(run, MANIFEST)):
                self._require_same(run, found)
                say(f"{self.shown(run)} is there already")
                return
            # without its manifest no version: what a killed copy left may be replaced
            names = [name for name in found.digests if name != MANIFEST]
            signature = [SIGNATURE] if (found.folder / SIGNATURE).is_file() else []
            for name in progress([*names, *signature, MANIFEST], "copied", len(found.digests) + 1):
                target = self._at(run, name)
                self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
                self.system.put_file(str(found.folder / name), target)

    def require_whole(self, run: str, digests: Mapping[str, str]) -> None:
        """Read every file of a version back. Raises DataError naming each that is missing, new or differs."""
        with plain_errors(self.url, KEY):
            self.system.invalidate_cache()
            there = set(self._names(run)) - {SIGNATURE}
            problems = [
                f"{self.shown(run)}/{name} is not part of it" for name in sorted(there - digests.keys())
            ]
            for name in progress(sorted(digests), "read back", len(digests)):
                if name not in there:
                    problems.append(f"{self.shown(run)}/{name} is missing")
                elif self._digest(self._at(run, name)) != digests[name]:
                    problems.append(f"{self.shown(run)}/{name} differs from what was published")
        if problems:
            raise DataError(problems)

    def signed(self, run: str) -> bytes:
        """The signature of a version."""
        with plain_errors(self.url, KEY):
            found: bytes = self.system.cat_file(self._at(run, SIGNATURE))
        return found

    def digests(self, run: str) -> dict[str, str]:
        """sha256 of each file of a version as its manifest lists them, the manifest's own included."""
        with plain_errors(self.url, KEY):
            data: bytes = self.system.cat_file(self._at(run, MANIFEST))
        try:
            listed = {item["path"]: item["sha256"] for item in json.loads(data)["files"]}
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{self.shown(run)}/{MANIFEST} is damaged; publish the version again elsewhere"
            ) from None
        return listed | {MANIFEST: hashlib.sha256(data).hexdigest()}

    def current(self) -> str | None:
        """The version that is to be served; None where none is yet."""
        with plain_errors(self.url, KEY):
            self.system.invalidate_cache()
            if not self.system.exists(self._at(CURRENT)):
                return None
            return str(self.system.cat_file(self._at(CURRENT)).decode().strip())

    def point_to(self, run: str) -> None:
        """Have `current` name a version, at once where the store can: a reader finds the old name or the new one."""
        with plain_errors(self.url, KEY), self.system.transaction:
            self.system.pipe_file(self._at(CURRENT), f"{run}\n".encode())

    def shown(self, *parts: str) -> str:
        """The place as a URL without what is secret in it."""
        return "/".join([shown(self.url).rstrip("/"), self.name, *parts])

    def _require_same(self, run: str, found: Verified) -> None:
        if self.digests(run) != found.digests or self.signed(run) != (found.folder / SIGNATURE).read_bytes():
            raise DataError(
                f"{self.shown(run)} holds other bytes under the same run, and a version is never overwritten; publish "
                "to another TO=, or remove that version if nobody may have it"
            )

    def _names(self, run: str) -> Iterator[str]:
        root = self._at(run)
        for path in self.system.find(root):
            yield path[path.index(root) + len(root) :].strip("/")

    def _digest(self, path: str) -> str:
        found = hashlib.sha256()
        with self.system.open(path, "rb") as stream:
            while block := stream.read(BLOCK):
                found.update(block)
        return found.hexdigest()

    def _at(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), self.name, *parts])


def publish(export: Path, to: str, public: Path | None) -> None:
    """Verify an export here, copy it, verify it there, and let `current` name it: in this order."""
    found = verify(export, public)
    if found.key is None:
        say("note: nobody's signature was asked for; KEY=<public key> does")
    name, run = found.manifest.name, found.manifest.run
    shop = Shop(to, name)
    before = shop.current()
    shop.put(found)
    shop.require_whole(run, found.digests)
    if shop.signed(run) != (export / SIGNATURE).read_bytes():
        raise DataError(f"{shop.shown(run)}/{SIGNATURE} differs from what was published")
    shop.point_to(run)
    say(f"published: {shop.shown(run)}, every file read back; {shop.shown(CURRENT)} names it")
    if before and before != run:
        say(f"to roll back: make publish TO={shown(to)} ROLLBACK={name}/{before}")


def roll_back(to: str, version: str, public: Path | None) -> None:
    """Let `current` name a version that was published before, once each of its files was read back as signed."""
    name, _, run = version.partition("/")
    if not NAME.fullmatch(name) or not NAME.fullmatch(run):
        raise ConfigError(f"ROLLBACK={version} is no version; give <name>/<run>")
    shop = Shop(to, name)
    before = shop.current()
    digests = shop.digests(run)
    shop.require_whole(run, digests)
    with TemporaryDirectory() as folder:
        signature = Path(folder) / SIGNATURE
        signature.write_bytes(shop.signed(run))
        if signed_digests(signature) != digests:
            raise DataError(f"{shop.shown(run)} holds other files than its signature states")
        if public:
            require_signed(Path(folder), digests, public)
    shop.point_to(run)
    say(
        f"{shop.shown(CURRENT)} names {run}, every file of which was read back; before it named {before or 'none'}"
    )


def main(argv: list[str]) -> None:
    """Publish or roll back as the command line says."""
    given = _arguments(argv)
    if not given.to:
        raise ConfigError("TO= is not given; name the place, such as s3://bucket/models or a folder")
    if bool(given.export) == bool(given.rollback):
        raise ConfigError(
            "give either EXPORT=<run folder>, or ROLLBACK=<name>/<run> for a version that is there"
        )
    public = Path(given.key).expanduser() if given.key else None
    if given.rollback:
        roll_back(given.to, given.rollback, public)
    else:
        publish(Path(given.export).expanduser(), given.to, public)


def _arguments(argv: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="finetune.publish", description=__doc__)
    parser.add_argument("--export", default="", help="the export's run folder")
    parser.add_argument("--to", default="", help="a URL that fsspec opens, or a folder")
    parser.add_argument("--key", default="", help="the public key that the version must be signed by")
    parser.add_argument(
        "--rollback", default="", help="<name>/<run>: the version that is to be current again"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
