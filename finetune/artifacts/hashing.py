"""sha256 of JSON, files and folders."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CACHE = ".hashes.json"


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    """Hex digest of the UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_of(files: Iterable[Mapping[str, Any]]) -> str:
    """One digest for a folder: over its files' paths and digests, sorted by path."""
    return sha256_text(canonical(sorted((item["path"], item["sha256"]) for item in files)))


class HashCache:
    """Digests keyed by inode, size and mtime, kept in the artifacts root between stages."""

    def __init__(self, root: Path, rehash: bool) -> None:
        self.path = root / CACHE
        self.known: dict[str, str] = {} if rehash else self._read()

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}  # a cache: losing it costs time, never truth
        return found if isinstance(found, dict) else {}

    def digest(self, path: Path) -> str:
        """sha256 of the file, from the cache where inode, size and mtime are as they were."""
        key = self._key(path)
        if key not in self.known:
            self.known[key] = sha256_file(path)
        return self.known[key]

    def remember(self, path: Path, digest: str) -> None:
        """Take the digest of a finished file from whoever hashed its bytes while writing them."""
        self.known[self._key(path)] = digest

    @staticmethod
    def _key(path: Path) -> str:
        stat = path.stat()
        return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"

    def save(self) -> None:
        """Write the cache atomically; a read-only root is no problem of the reader's."""
        partial = self.path.with_name(f"{CACHE}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(self.known))
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
