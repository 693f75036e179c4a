"""What every data set offers: hashed files, and documents that are read when asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.labels import require_known
from data_prep.rows import Document, Drop, Target
from finetune.artifacts.hashing import HashCache, content_of, sha256_text
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError
from finetune.remote import is_url, local_folder

REMOTE = "remote"
"""Folder of the artifacts root with the copies of remote files."""


@dataclass(frozen=True)
class Source:
    """A data set: `read()` yields every document of its files, or the drop it became, in a fixed order."""

    name: str
    files: Mapping[str, str]
    """Relative path and sha256 of every file read."""
    read: Callable[[], Iterator[Document | Drop]]
    questions: tuple[str, ...] = ()
    """The labels of marked passages, in a fixed order: what may be asked about every text."""

    def record(self) -> dict[str, str]:
        """How a manifest names it."""
        return record(self.name, self.files)


def record(name: str, files: Mapping[str, str]) -> dict[str, str]:
    """How a manifest names input files; another byte in any of them gives another content."""
    content = content_of({"path": path, "sha256": digest} for path, digest in files.items())
    return {"stage": "source", "name": name, "run": "", "content": content}


def hashed(names: Sequence[str], paths: PathsConfig) -> dict[str, str]:
    """The sha256 of files below the data root, by name. Raises DataError where one is missing."""
    files = {name: Path(paths.data_root) / name for name in names}
    for path in files.values():
        if not path.is_file():
            raise DataError(
                f"{path} is not a file; put it there, or set DATA_ROOT or correct the data config"
            )
    return digests(files, paths)


def place_of(name: str, paths: PathsConfig) -> Path:
    """Where a file or folder of the data root stands, or the local copy of a URL, fetched where it changed."""
    if not is_url(name):
        return Path(paths.data_root) / name
    return local_folder(name, Path(paths.artifacts_root) / REMOTE / sha256_text(name)[:16])


def digests(files: Mapping[str, Path], paths: PathsConfig) -> dict[str, str]:
    """The sha256 of each file, by its name. Raises DataError where one cannot be read."""
    cache = HashCache(Path(paths.artifacts_root), paths.rehash)
    found: dict[str, str] = {}
    for name, path in files.items():
        try:
            found[name] = cache.digest(path)
        except OSError as error:
            raise DataError(f"{path}: not readable: {(error.strerror or 'unknown error').lower()}") from None
    cache.save()
    return found


def known(target: Target, labels: Sequence[str] | None, where: str) -> Target:
    """The target. Raises DataError where it is, or holds, a label outside the closed set."""
    for label in [target] if isinstance(target, str) else target:
        require_known(label, labels, where)
    return target


def asked_labels(labels: Sequence[str], data: DataConfig) -> tuple[str, ...]:
    """The labels asked about: data.labels, else all of the source's. Raises ConfigError for one it does not have."""
    for label in data.labels or ():
        if label not in labels:
            # the source's own labels stay unsaid: a wrong target_field makes them private text
            raise ConfigError(
                f"data.labels has {label!r}, with which the source marks no passage (it has {len(labels)} labels); "
                "correct it, or remove it"
            )
    return tuple(labels if data.labels is None else data.labels)
