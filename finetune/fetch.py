"""Where the files of a base come from: a folder, a URL that fsspec opens, the model hub, or an installed package."""

import glob
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import remote
from finetune.artifacts.hashing import canonical, sha256_text
from finetune.base_checks import COMPANIONS, LEGAL, is_legal
from finetune.config.data_checks import PRIVATE
from finetune.config.model import BaseConfig, BaseKind
from finetune.config.schema import PathsConfig
from finetune.console import say
from finetune.errors import ConfigError, DataError, HallmarkError, MachineError
from finetune.packages import package_folder

HUB = "hub"
FROM = "FROM= (model.base.source)"


@dataclass(frozen=True)
class Source:
    """The files of a base before they are pinned."""

    said: str
    """How messages and the manifest name it: nothing secret."""
    folder: Path
    """Where its files lie, or lie once they are fetched."""
    sizes: Mapping[str, int]
    """Bytes of each file of the folder itself; subfolders are nothing that a base needs."""
    stamp: str
    """Another one wherever a file changed: names, sizes, and times or what the store says."""
    revision: str | None
    texts: str
    """Where a person puts a licence text that the source lacks."""
    fetch: Callable[[Collection[str]], None]
    """Bring these files into `folder`; what is there already is not brought again."""
    place: Callable[[Path, Path], object]
    """Put a file of `folder` into the run folder."""
    gguf: bool = False
    """One GGUF file, which is converted rather than copied."""


def open_source(base: BaseConfig, paths: PathsConfig, ships: Collection[str], staging: Path) -> Source:
    """The source that the config names, listed and not yet fetched; downloads go below `staging`.

    Raises ConfigError for a FROM= that cannot be meant, DataError or MachineError where nothing is there, where a
    package is missing, or where the store or the hub cannot be reached.
    """
    given, own = base.source, Path(paths.models_root) / str(base.path)
    if given is None and base.kind is BaseKind.wheel_gguf:
        return _package(base)
    if given is None:
        missing = MachineError(
            f"{own} is not a model folder; put the weights of {base.repo or base.path} there, set MODELS_ROOT to the "
            "folder that holds them, or run `make fetch-base CONF=… FROM=…`"
        )
        return _folder(own, base, missing)
    if given != HUB and not remote.is_url(given):
        what = f"{FROM} {given} is no folder; give one, a URL such as s3://bucket/folder, or hub"
        return _folder(Path(given).expanduser(), base, ConfigError(what))
    into = staging / sha256_text(canonical([given, base.repo, base.revision]))[:8]
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = _hub(base, ships, into) if given == HUB else _url(given, base, into)
    return _with_texts(source, own, ships) if base.path else source


def _folder(folder: Path, base: BaseConfig, missing: HallmarkError) -> Source:
    if not folder.is_dir():
        raise missing
    return _local(folder, str(folder), sorted(path for path in folder.iterdir() if path.is_file()), base)


def _package(base: BaseConfig) -> Source:
    path = package_folder(str(base.package), "model.base.package") / str(base.file)
    if not path.is_file():
        raise MachineError(f"the package {base.package} has no file {base.file} (model.base.file)")
    return replace(_local(path.parent, str(path), [path], base), gguf=True)


def _local(folder: Path, said: str, paths: Sequence[Path], base: BaseConfig) -> Source:
    found = {path.name: path.stat() for path in paths}
    return Source(
        said=said,
        folder=folder,
        sizes={name: stat.st_size for name, stat in found.items()},
        stamp=_stamp(said, {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}),
        revision=base.revision,
        texts=str(folder),
        fetch=lambda _: None,
        place=shutil.copyfile,
    )


def _stamp(said: str, files: Mapping[str, Any]) -> str:
    return sha256_text(canonical([said, files]))


def _url(url: str, base: BaseConfig, into: Path) -> Source:
    if PRIVATE.search(url):
        raise ConfigError(
            f"{FROM} is a URL with a user, password or query string, which others could read; remove it and use the "
            "storage library's own environment variables or config"
        )
    found = remote.listed(url, FROM)
    if found.is_file:
        raise ConfigError(f"{FROM} {remote.shown(url)} is one file; give the folder of the base")
    files = {name: stamp for name, (_, stamp) in found.files.items() if "/" not in name}
    sizes = {name: size for name, size in found.sizes().items() if name in files}

    def fetch(names: Collection[str]) -> None:
        _require_sizes(remote.fetch(found, names, into), names, sizes, remote.shown(url))

    return Source(
        said=remote.shown(url),
        folder=into / "files",
        sizes=sizes,
        stamp=_stamp(remote.shown(url), files),
        revision=base.revision,
        texts=remote.shown(url),
        fetch=fetch,
        place=Path.replace,
    )


def _require_sizes(folder: Path, names: Collection[str], sizes: Mapping[str, int], said: str) -> None:
    short = [name for name in names if sizes[name] and (folder / name).stat().st_size != sizes[name]]
    for name in short:
        (folder / name).unlink()
    if short:
        raise MachineError(
            f"{said}/{short[0]} came with another size than listed; run the same command again"
        )


def _hub(base: BaseConfig, ships: Collection[str], into: Path) -> Source:
    if base.repo is None:
        raise ConfigError("model.base.repo is not set; FROM=hub fetches that one")
    say(f"asking the model hub for {base.repo}; this command goes online because of FROM=hub")
    patterns = ["*.safetensors", *COMPANIONS, *(f"{name}*" for name in LEGAL), *ships]
    listed = _snapshot(snapshot_arguments(base, patterns, into), dry_run=True)
    if not listed:
        raise DataError(f"{base.repo} holds no file of a base on the hub; correct model.base.repo")
    sizes = {item.filename: int(item.file_size or 0) for item in listed}
    pinned = replace(base, revision=str(listed[0].commit_hash))

    def fetch(names: Collection[str]) -> None:
        _snapshot(snapshot_arguments(pinned, [glob.escape(name) for name in names], into))
        _require_sizes(into / "files", names, sizes, str(base.repo))

    return Source(
        said=f"hub:{base.repo}@{pinned.revision}",
        folder=into / "files",
        sizes=sizes,
        stamp=_stamp(f"hub:{base.repo}@{pinned.revision}", sizes),
        revision=pinned.revision,
        texts="a folder with the rest of the base, and give FROM=folder",
        fetch=fetch,
        place=Path.replace,
    )


def snapshot_arguments(base: BaseConfig, patterns: Collection[str], into: Path) -> dict[str, Any]:
    """How huggingface_hub.snapshot_download is called: these files of this revision, no subfolder, all below `into`."""
    return {
        "repo_id": base.repo,
        "revision": base.revision,
        "allow_patterns": sorted(patterns),
        "ignore_patterns": ["*/*", "*.py"],
        "local_dir": into / "files",
        "cache_dir": into / "cache",
    }


def _snapshot(arguments: Mapping[str, Any], dry_run: bool = False) -> Any:
    """Online for this one call: everything else stays offline."""
    from huggingface_hub import constants, errors, snapshot_download

    repo, revision = arguments["repo_id"], arguments["revision"]
    constants.HF_HUB_OFFLINE = False
    try:
        return snapshot_download(**arguments, dry_run=dry_run)
    except Exception as error:  # noqa: BLE001  (the hub's client, its transports and its caches each raise their own)
        cause = error.__cause__ if isinstance(error, errors.DryRunError) and error.__cause__ else error
    finally:
        constants.HF_HUB_OFFLINE = True
    if isinstance(cause, errors.GatedRepoError):
        raise MachineError(
            f"{repo} is gated: accept its licence on its page on the hub, then set HF_TOKEN to a token of that account"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        raise ConfigError(f"{repo} has no revision {revision} on the hub; correct model.base.revision")
    if isinstance(cause, errors.RepositoryNotFoundError):
        raise ConfigError(
            f"{repo} is not on the hub, or needs HF_TOKEN; correct model.base.repo, or set HF_TOKEN"
        )
    raise MachineError(
        f"the model hub cannot give {repo} ({type(cause).__name__}); check the network and free disk, or copy the base "
        "to a folder elsewhere and give FROM=folder"
    )


def _with_texts(source: Source, own: Path, ships: Collection[str]) -> Source:
    """The same source with the licence texts that only the model's own folder below MODELS_ROOT has."""
    found = sorted(own.iterdir()) if own.is_dir() else []
    extra = {path.name: path for path in found if path.is_file() and is_legal(path.name, ships)}
    extra = {name: path for name, path in extra.items() if name not in source.sizes}

    def fetch(names: Collection[str]) -> None:
        source.fetch([name for name in names if name not in extra])
        for name in extra.keys() & set(names):
            shutil.copyfile(extra[name], source.folder / name)

    sizes = {**source.sizes, **{name: path.stat().st_size for name, path in extra.items()}}
    return replace(source, sizes=sizes, texts=str(own), fetch=fetch)
