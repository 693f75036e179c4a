"""The base: copied once into bases/, pinned by hash, opened offline ever after."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.artifacts import Artifact, Output, Spec, locked, open_last, require_room, writing
from finetune.artifacts.hashing import HashCache, content_of
from finetune.artifacts.manifest import differences, plain
from finetune.artifacts.stages import folder_of
from finetune.base_checks import (
    companions,
    is_legal,
    left_out,
    listing,
    read_json,
    require_usable,
    require_whole,
    weights,
)
from finetune.config.model import BaseConfig
from finetune.config.schema import PathsConfig, RunConfig
from finetune.console import gigabytes, progress, say
from finetune.errors import ConfigError, DataError
from finetune.fetch import Source, open_source
from finetune.fetch_gguf import convert, converted_bytes
from finetune.fetch_progress import bytes_below, growing
from finetune.licences import read_licence

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
STAGING = ".download"


def open_base(run: RunConfig) -> Artifact:
    """The pinned base of this configuration; where none is pinned, copied first from model.base.path or the package.

    Raises ConfigError where the pinned base is another than the config asks for.
    """
    pinned = pinned_base(run)
    if pinned is None:
        offline = replace(run.model, base=replace(run.model.base, source=None))
        return fetch_base(replace(run, model=offline))
    problems = list(_unlike(run.model.base, pinned))
    if problems:
        raise ConfigError([f"{line} in {pinned.folder}; run `make fetch-base CONF=…`" for line in problems])
    return pinned


def pinned_base(run: RunConfig) -> Artifact | None:
    """The base that was pinned last under this model's name; None where there is none.

    Raises DataError where a file of it is missing or has changed.
    """
    try:
        return open_last(run.paths, "base", run.model.name)
    except ConfigError:
        return None


def fetch_base(run: RunConfig) -> Artifact:
    """Copy the base's weights, tokenizer and licence texts into bases/ and pin them, or return them where they are.

    Raises ConfigError for a source that cannot be meant or holds other weights than those expected or pinned,
    DataError where it is no whole model folder with its licence texts, MachineError for a missing source, disk or
    network.
    """
    ships = read_licence(run.model.licence).ships
    staging = folder_of(Path(run.paths.artifacts_root), "base", run.model.name) / STAGING
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(staging):
        source = open_source(run.model.base, run.paths, ships, staging)
        made = pinned_base(run)
        if made is not None and _is_same(run.model.base, made, source):
            say(f"the base {run.model.name} is pinned, and {source.said} is unchanged since; nothing to do")
        else:
            names = list(source.sizes) if source.gguf else _gathered(run, source, ships, staging)
            made = _pinned(run, source, names, made)
        shutil.rmtree(staging)
    say(f"to refuse any other weights: model.base.sha256={made.manifest.inputs['source']['content']}")
    return made


def legal_texts(folder: Path) -> list[Path]:
    """Licence, notice and use-policy texts of a model folder, however they are spelt."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_legal(path.name))


def _unlike(base: BaseConfig, pinned: Artifact) -> Iterator[str]:
    """`key is A today, but B` for what makes the pinned base another than the config's."""
    recorded, facts = pinned.manifest.config["base"], pinned.manifest.facts
    is_named = base.revision in (None, facts.get("asked_revision"))
    revision = recorded.get("revision") if is_named else base.revision
    yield from differences(recorded, _identity(base, revision), "model.base")
    content = pinned.manifest.inputs["source"]["content"]
    if base.sha256 not in (None, content):
        yield f"model.base.sha256={base.sha256} today, but {content}"


def _identity(base: BaseConfig, revision: str | None) -> dict[str, Any]:
    """The section that a base is recorded with: neither FROM= nor an expectation makes another base of it."""
    section: dict[str, Any] = plain(replace(base, revision=revision))
    return {key: value for key, value in section.items() if key not in ("source", "sha256")}


def _is_same(base: BaseConfig, pinned: Artifact, source: Source) -> bool:
    return pinned.manifest.facts.get("stamp") == source.stamp and not list(_unlike(base, pinned))


def _gathered(run: RunConfig, source: Source, ships: list[str], staging: Path) -> list[str]:
    """Names of the files to pin, all of them in `source.folder` and checked."""
    beside = companions(source.sizes, ships, source.said, source.texts)
    source.fetch(beside)
    heavy = weights(source.folder, source.sizes, source.said)
    require_usable(run.model, source.folder, source.said)
    names = [*beside, *heavy]
    total = sum(source.sizes[name] for name in names)
    say(f"fetching the base {run.model.name} once from {source.said}: {len(names)} files, {gigabytes(total)}")
    ignored = left_out(source.sizes, names)
    if ignored:
        say(f"not copied: {listing(ignored)} (code, and weights that are not loaded)")
    fetched = bytes_below(source.folder) if staging in source.folder.parents else 0
    require_room(staging.parent, total - fetched, "the base")
    with growing(staging, total, "fetched"):
        source.fetch(heavy)
    require_whole(source.folder, heavy, source.said)
    return names


def _pinned(run: RunConfig, source: Source, names: list[str], before: Artifact | None) -> Artifact:
    """The run folder of these files; `before` is the base that was pinned until now."""
    base, cache = run.model.base, HashCache(Path(run.paths.artifacts_root), run.paths.rehash)
    digests = {name: cache.digest(source.folder / name) for name in progress(names, "hashed", len(names))}
    cache.save()
    content = content_of({"path": name, "sha256": digest} for name, digest in digests.items())
    _require_meant(base, source, content, before)
    record = {"stage": "source", "name": source.said, "run": "", "content": content}
    identity = {"base": _identity(base, source.revision)}
    spec = Spec("base", 2, run.model.name, identity, {"source": record})
    with writing(run.paths, spec, move_current=True) as output:
        if output.finished is None and source.gguf:
            require_room(output.folder, converted_bytes(source.folder / names[0]), "the base")
            say(f"converting the base {run.model.name} once to bf16 safetensors, from {source.said}")
            convert(source.folder / names[0], output, run.model)
        elif output.finished is None:
            _place(source, digests, output, run.paths)
        output.facts = {"asked_revision": base.revision, "stamp": source.stamp}
    return output.made()


def _require_meant(base: BaseConfig, source: Source, content: str, before: Artifact | None) -> None:
    if base.sha256 is not None and base.sha256 != content:
        raise ConfigError(
            f"model.base.sha256={base.sha256} is expected, but {source.said} has content {content}; fetch the weights "
            "that are meant, or correct the setting"
        )
    pinned = content if before is None else before.manifest.inputs["source"]["content"]
    if base.sha256 is None and before is not None and pinned != content:
        raise ConfigError(
            f"{source.said} has content {content}, but the pinned base {before.folder} has {pinned}; if the new "
            f"weights are meant, set model.base.sha256={content} (adapters trained on the old ones keep those), or "
            "give them a model.name of their own"
        )


def _place(source: Source, digests: Mapping[str, str], output: Output, paths: PathsConfig) -> None:
    """Copy or move the files, and read them again: what is pinned is what was checked."""
    with growing(output.folder, sum(source.sizes[name] for name in digests), "copied"):
        for name in digests:
            source.place(source.folder / name, output.path(name))
    cache = HashCache(Path(paths.artifacts_root), rehash=False)
    for name, digest in digests.items():
        if cache.digest(output.path(name)) != digest:
            raise DataError(
                f"{output.folder / name} is not what {source.said} held; did it change while it was copied? Run the "
                "same command again"
            )
    cache.save()
    for name in ("config.json", "tokenizer_config.json"):
        if name in digests:
            _drop_own_code(output, name)


def _drop_own_code(output: Output, name: str) -> None:
    """Without `auto_map` no library is ever led to code from the model's folder."""
    found = read_json(output.folder / name, str(output.folder))
    if found.pop("auto_map", None) is not None:
        output.write_text(name, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        say(f"{name}: auto_map, which names code of the model's own, is left out; that code is never run")
