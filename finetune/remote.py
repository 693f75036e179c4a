"""Remote folders (s3://, gs://, az:// and what else fsspec opens): listed, and fetched file by file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune.artifacts import locked
from finetune.errors import ConfigError, DataError, HallmarkError, MachineError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
INDEX = "index.json"
SAVE_BYTES = 1 << 20
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
EXTRAS = {"s3fs": "s3", "gcsfs": "gs", "adlfs": "az"}
STAMPS = tuple(
    "size ETag etag LastModified last_modified mtime updated created md5Hash generation version_id".split()
)
"""What the file systems say of a file that changes when it does."""


@dataclass(frozen=True)
class Remote:
    """A remote folder or file as it was listed."""

    url: str
    key: str
    """The setting that names it, for messages."""
    system: "AbstractFileSystem"
    is_file: bool
    files: Mapping[str, tuple[str, Mapping[str, str]]]
    """Each file's name below the folder: its remote path, and the stamp that changes when the file does."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file; 0 where the store does not say."""
        return {name: _bytes(stamp) for name, (_, stamp) in self.files.items()}


def is_url(path: str) -> bool:
    """Whether a path names a remote place, such as s3://bucket/folder."""
    return URL.match(path) is not None


def shown(url: str) -> str:
    """The URL without user, password and query."""
    if "://" not in url:
        return url  # a path, which fsspec takes too
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def local_folder(url: str, into: Path, key: str = "data.source.path") -> Path:
    """The copy, below `into`, of a remote folder or file: what is new or changed is fetched, what is gone deleted.

    Raises ConfigError for an unknown protocol, DataError where nothing is there, MachineError for a missing package,
    wrong credentials, a network that fails or another process that mirrors into the same folder.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(into):
        remote = listed(url, key)
        files = fetch(remote, remote.files, into)
        _prune(files, set(remote.files))
        _write_index(into / INDEX, {name: stamp for name, (_, stamp) in remote.files.items()})
    return files / next(iter(remote.files)) if remote.is_file else files


def listed(url: str, key: str) -> Remote:
    """What a URL holds, by name, in order; `key` is the setting that names it. Raises as `local_folder` does."""
    with plain_errors(url, key):
        system, root = open_store(url)
        system.invalidate_cache()
        is_file = system.isfile(root)
        # a store may list its folders as empty objects
        found = {
            path: facts for path, facts in system.find(root, detail=True).items() if facts["type"] == "file"
        }
        if not found:
            raise DataError(f"{shown(url)} holds no file; put some there or change {key}")
        files = {_local_name(path, root, url): (path, _stamp(found[path])) for path in sorted(found)}
    return Remote(url, key, system, is_file, files)


def fetch(remote: Remote, names: Iterable[str], into: Path) -> Path:
    """The folder below `into` with these files; one that is there with the same stamp is not fetched again.

    Raises MachineError where the store fails; what was fetched until then stays.
    """
    files, index_file = into / "files", into / INDEX
    files.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _read_index(index_file)
    try:
        for count, name in enumerate(names, 1):
            path, stamp = remote.files[name]
            if known.get(name) != stamp or not (files / name).is_file():
                with plain_errors(remote.url, remote.key):
                    _fetch_file(remote.system, path, files / name, into)
                known[name] = dict(stamp)
                if count % 100 == 0 or _bytes(stamp) > SAVE_BYTES:
                    _write_index(index_file, known)  # a killed fetch goes on from here
    finally:
        _write_index(index_file, known)
    return files


def open_store(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL and the path on it. Raises ConfigError or MachineError where there is none."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MachineError("the Python package fsspec is not installed; run `make setup`") from None
    scheme = url.partition("://")[0].lower()
    try:
        system, root = url_to_fs(url)
    except ImportError:
        package = PACKAGES.get(scheme, f"the fsspec package for {scheme}://")
        extra = f", the extra {EXTRAS[package]} of this project" if package in EXTRAS else ""
        raise MachineError(
            f"{shown(url)} needs a package that is not installed; run `pip install {package}`{extra}"
        ) from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise ConfigError(
            f"{scheme}:// is no protocol that fsspec knows; use s3://, gs://, az:// or a path"
        ) from None
    return system, str(root)


def _local_name(path: str, root: str, url: str) -> str:
    """The path below the root. Raises DataError for one that would leave the local folder."""
    base = root.rstrip("/")
    name = path[len(base) :].strip("/") if path.startswith(f"{base}/") else PurePosixPath(path).name
    # object stores allow any key, also one that is no path: `a/../../b`, `a//b`
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise DataError(f"{shown(url)} holds a file whose name leaves its folder; rename or remove it")
    return name


def _stamp(facts: Mapping[str, Any]) -> dict[str, str]:
    stamp = {name: str(facts[name]) for name in STAMPS if facts.get(name) is not None}
    return stamp if len(stamp) > 1 else {name: str(fact) for name, fact in sorted(facts.items())}


def _bytes(stamp: Mapping[str, str]) -> int:
    size = stamp.get("size", "")
    return int(size) if size.isdecimal() else 0


def _fetch_file(system: "AbstractFileSystem", path: str, target: Path, into: Path) -> None:
    partial = into / "download.partial"
    system.get_file(path, str(partial))
    partial.chmod(0o600)
    if target.is_dir():  # a folder that is now a file
        _prune(target, set())
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial.replace(target)


def _prune(folder: Path, kept: set[str]) -> None:
    """Delete the files below a folder that are not kept, and the folders that this leaves empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif not path.is_dir() and str(path.relative_to(folder)) not in kept:
            path.unlink()


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # losing it costs a download, never truth
    return found if isinstance(found, dict) else {}


def _write_index(path: Path, index: Mapping[str, Mapping[str, str]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(index, default=dict))
    partial.chmod(0o600)
    partial.replace(path)


@contextmanager
def plain_errors(url: str, key: str) -> Iterator[None]:
    """Whatever a remote file system raises as one line that repeats nothing of it: it may hold a key.

    `key` is the setting that names the URL. Raises ConfigError, DataError or MachineError.
    """
    try:
        yield
    except HallmarkError:
        raise
    except FileNotFoundError:
        raise DataError(f"{shown(url)} is not there; change {key}") from None
    except Exception as error:  # noqa: BLE001  (each protocol has exceptions of its own)
        what = f"{shown(url)} cannot be read ({type(error).__name__})"
        raise MachineError(f"{what}; check the credentials, the network and free disk") from None
