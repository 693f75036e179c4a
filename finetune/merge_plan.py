"""What a merge will write, known from headers and shapes before the first weight is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from finetune.adapter_weights import AdapterWeights, Change
from finetune.base_checks import require_whole
from finetune.errors import DataError
from finetune.mapped_tensors import NAMES
from finetune.merge_base import Base, Source
from finetune.network_names import Place, places_of
from finetune.safetensors_stream import Entry, Mapped, layout

HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


@dataclass(frozen=True)
class Task:
    """One tensor to write: where its values come from, what the adapter makes of them, where the network has it."""

    source: Source
    entry: Entry
    change: Change | None
    network_name: str
    first_row: int = 0


@dataclass(frozen=True)
class Shard:
    """One file to write: its first bytes, its tensors in the order of their bytes, and the file that they come from."""

    name: str
    header: bytes
    tasks: Sequence[Task]
    mapped: Mapped

    @property
    def size(self) -> int:
        """Bytes of the finished file."""
        return self.tasks[-1].entry.end if self.tasks else len(self.header)

    def forget(self, task: Task) -> None:
        """Give the pages back that a tensor was read from."""
        for name in task.source.pages:
            self.mapped.forget(name)


@dataclass(frozen=True)
class Plan:
    """All files of a merge, and the settings of config.json that the adapter changed."""

    shards: Sequence[Shard]
    modules: int
    """LoRA modules, each of which must change a tensor."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def index(self) -> dict[str, Any]:
        """The content of model.safetensors.index.json."""
        files = {task.entry.name: shard.name for shard in self.shards for task in shard.tasks}
        size = sum(task.entry.end - task.entry.begin for shard in self.shards for task in shard.tasks)
        return {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))}


def plan_merge(base: Base, adapter: AdapterWeights) -> Plan:
    """The files that a merge of this adapter writes.

    Raises DataError where files of the base are missing or damaged, and unless every module of the adapter and every
    quantised one is found in it.
    """
    files = base.shards()
    require_whole(base.read, [path.name for path in files], str(base.read))
    mapped = [Mapped(path) for path in files]
    names = places_of(base, adapter, [name for file in mapped for name in file.entries])
    sources = {file.path.name: base.sources(file, names.known) for file in mapped}
    shapes = {source.name: source.shape for shard in sources.values() for source in shard}
    adapter, untied = _untied(base, adapter.bound(names.shapes(shapes)), sources)
    _require_found(
        base, adapter, {names.known(source.name) for shard in sources.values() for source in shard}
    )
    places = names.places(shapes)
    shards = [_shard(file, sources[file.path.name], adapter, places) for file in mapped]
    return Plan(shards, len(adapter.factors), {**_vocabulary(base, adapter), **untied})


def _shard(
    mapped: Mapped, sources: Sequence[Source], adapter: AdapterWeights, places: Mapping[str, Place]
) -> Shard:
    found = {}
    for source in sources:
        place = places.get(source.name, Place(source.name, source.shape))
        change = adapter.change(place.name, _final_shape(adapter, place))
        shape = _final_shape(adapter, place) if place.shape == source.shape else source.shape
        found[source.name] = (source, change, shape, place)
    header, entries = layout(
        (name, NAMES[source.dtype], shape) for name, (source, _, shape, _) in found.items()
    )
    tasks = [
        Task(source, entry, change, place.name, place.first_row)
        for entry in entries
        for source, change, _, place in [found[entry.name]]
    ]
    return Shard(mapped.path.name, header, tasks, mapped)


def _final_shape(adapter: AdapterWeights, place: Place) -> tuple[int, ...]:
    """The shape after the merge: an embedding that was trained may have more rows, or fewer, than the base's."""
    replaced = adapter.replaced.get(place.name)
    if replaced is None:
        return place.shape
    if len(replaced.shape) != len(place.shape) or replaced.shape[1:] != torch.Size(place.shape[1:]):
        raise DataError(
            f"{place.name} is {list(place.shape)} but the adapter's {list(replaced.shape)}: another base?"
        )
    return tuple(replaced.shape)


def _require_found(base: Base, adapter: AdapterWeights, found: set[str]) -> None:
    there = found | {name.removesuffix(".weight") for name in found}
    lacking = sorted((adapter.names() | base.quantised) - there)
    if lacking:
        raise DataError(
            f"{len(lacking)} modules that were trained are not in the base, first {lacking[0]}: another base?"
        )


def _untied(
    base: Base, adapter: AdapterWeights, sources: Mapping[str, list[Source]]
) -> tuple[AdapterWeights, dict[str, Any]]:
    """Give a base whose head is its embedding a head of its own, where the adapter makes the two differ.

    The adapter to merge, and what config.json has to say.
    """
    names = [source.name for shard in sources.values() for source in shard]
    embeddings = [name for name in names if name.endswith(EMBEDDINGS)]
    if HEAD in names or len(embeddings) != 1 or not _settings(base).get("tie_word_embeddings", False):
        return adapter, {}
    if not _differ(adapter, embeddings[0]):
        kept = {name: tensor for name, tensor in adapter.replaced.items() if name != HEAD}
        return replace(adapter, replaced=kept), {}
    for shard in sources.values():
        shard.extend([replace(source, name=HEAD) for source in shard if source.name == embeddings[0]])
    return adapter, {"tie_word_embeddings": False}


def _differ(adapter: AdapterWeights, embedding: str) -> bool:
    """Whether embedding and head are no longer the same. Single tokens' rows PEFT trains for both at once."""
    head, own = adapter.replaced.get(HEAD), adapter.replaced.get(embedding)
    modules = {name.removesuffix(".weight") for name in (HEAD, embedding)}
    if modules & adapter.factors.keys():
        return True
    if head is None and own is None:
        return False
    return head is None or own is None or head.shape != own.shape or not torch.equal(head, own)


def _vocabulary(base: Base, adapter: AdapterWeights) -> dict[str, Any]:
    """The number of tokens where it changed."""
    rows = {len(tensor) for name, tensor in adapter.replaced.items() if name.endswith(EMBEDDINGS)}
    if len(rows) != 1 or _settings(base).get("vocab_size") in rows:
        return {}
    return {"vocab_size": rows.pop()}


def _settings(base: Base) -> dict[str, Any]:
    """config.json, with the part about text on top."""
    found: dict[str, Any] = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    return {**found, **(found.get("text_config") or {})}
