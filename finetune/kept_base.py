"""The base in 4 bits on disk: quantised once, one tensor in memory at a time, read by every stage from then on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, Output, Spec, require_room
from finetune.artifacts.manifest import MANIFEST, differences, plain, read_manifest
from finetune.artifacts.stages import COMMANDS, SUFFIXES
from finetune.base_checks import INDEX, shards
from finetune.config import RunConfig
from finetune.config.model import Quantisation
from finetune.config.plan import Device
from finetune.console import gigabytes, progress, say
from finetune.errors import ConfigError, DataError, MachineError
from finetune.model import TrainedOn, quantisation_config, quantised_base, quantised_spec, require_device

SHARED = 1 << 20
"""Bytes of settings and tokenizer beside the weights, and to spare."""

BASE = "the base in 4 bits"


@dataclass(frozen=True)
class Job:
    """A pinned base to quantise: tensor names and room in memory by shard, how each is treated, bytes to write."""

    names: Mapping[Path, list[str]]
    room: Mapping[Path, int]
    treatment: Any
    size: int


def quantise_base(run: RunConfig, pinned: Artifact) -> Artifact:
    """The quantised base of this pinned one, made where there is none.

    Raises ConfigError where the config asks for no quantisation, DataError for a family that is only quantised while
    loading, MachineError for a missing device or a full disk.
    """
    if run.model.quantisation is Quantisation.none:
        raise ConfigError("model.quantisation=none: there is nothing to quantise; set model.quantisation=nf4")
    found = quantised_base(run.paths, run.model, pinned)
    if found is not None:
        say(f"the base {run.model.name} is quantised already; nothing to do")
        return found
    return _written(run, pinned, _job(run, pinned.folder, BASE))


def training_base(run: RunConfig, pinned: Artifact) -> TrainedOn:
    """What training loads: the quantised base, made where there is none; the pinned one where none can be kept."""
    if run.model.quantisation is Quantisation.none:
        return TrainedOn(pinned, pinned)
    found = quantised_base(run.paths, run.model, pinned)
    if found is not None:
        return TrainedOn(pinned, found)
    require_device(run.hardware)
    try:
        job = _job(run, pinned.folder, BASE)
    except (DataError, MachineError) as error:
        say(f"note: no quantised base is kept, each stage quantises while loading: {error.problems[0]}")
        return TrainedOn(pinned, pinned)
    return TrainedOn(pinned, _written(run, pinned, job))


def quantise_merged(run: RunConfig, output: Output) -> None:
    """Put the merged weights of an export in 4 bits in their place, in the format that transformers and vLLM read.

    Raises as `quantise_base` does.
    """
    run = replace(run, model=replace(run.model, quantisation=Quantisation.nf4))
    require_device(run.hardware)
    job = _job(run, output.folder, "the merged model in 4 bits")
    say(f"quantising the merged weights to NF4, {gigabytes(job.size)}; nothing evaluates them")
    with output.scratch() as folder:
        index = _write_weights(run, job, Output(folder))
        for shard in job.names:
            (folder / shard.name).replace(output.path(shard.name))
    if (output.folder / INDEX).is_file():
        output.write_text(INDEX, json.dumps(index, indent=2) + "\n")
    config = json.loads((output.folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantisation_config(run.model).to_dict()
    output.write_text("config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _job(run: RunConfig, folder: Path, what: str) -> Job:
    """Raises DataError where files quantised ahead load to another network, MachineError where they do not fit."""
    from finetune.nf4 import packed_bytes, shelf_bytes
    from finetune.skeleton import skeleton, treatment, why_not

    require_device(run.hardware)
    shapes = {shard: dict(_shapes(shard)) for shard in shards(folder)}
    network = skeleton(folder, run.model)
    found = treatment(network, [name for shard in shapes.values() for name in shard])
    reason = why_not(network, found)
    if reason:
        raise DataError(f"{folder}: {reason}, so this base is quantised while loading only")
    size, room = SHARED, dict.fromkeys(shapes, 0)
    for shard, tensors in shapes.items():
        for name, (values, stored) in tensors.items():
            packed = packed_bytes(values, run.model.double_quantisation) if name in found.packed else None
            size += packed or stored
            room[shard] += shelf_bytes(packed or max(stored, 4 * values))  # a family may keep some in fp32
    require_room(folder.parent, size, what)
    return Job({shard: list(tensors) for shard, tensors in shapes.items()}, room, found, size)


def _shapes(shard: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (values, bytes)) of each tensor, from the header alone."""
    from math import prod

    with shard.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    for name, item in header.items():
        if name != "__metadata__":
            begin, end = item["data_offsets"]
            yield name, (prod(item["shape"]), end - begin)


def _written(run: RunConfig, pinned: Artifact, job: Job) -> Artifact:
    spec = quantised_spec(run.model, pinned)
    with artifacts.writing(run.paths, spec, move_current=False) as output:
        if output.finished is None:
            say(
                f"quantising the base {run.model.name} once, {gigabytes(job.size)}; training, eval and export read it"
            )
            _tell_others(output.folder, spec)
            index = _write_weights(run, job, output)
            _write_companions(run, pinned, index, output)
            output.counts = {"quantised": len(job.treatment.packed)}
            output.facts = {"device": run.hardware.device.name}
    return output.made()


def _tell_others(folder: Path, spec: Spec) -> None:
    """Say why quantised bases that stand beside this one are not it; adapters that were trained on them read them."""
    for other in sorted(folder.parent.glob(f"*{SUFFIXES[spec.stage]}/{MANIFEST}")):
        found = read_manifest(other.parent, COMMANDS[spec.stage])
        why = list(differences(found.config, plain(spec.config))) or ["it is of another pinned base"]
        say(
            f"note: {other.parent} stays as it is, since {', '.join(why)}; delete it once no adapter needs it"
        )


def _write_weights(run: RunConfig, job: Job, output: Output) -> dict[str, Any]:
    """One file for each shard of the pinned base; the index of their tensors."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from finetune.nf4 import Shelf, pack

    device = "cuda:0" if run.hardware.device is Device.cuda else "cpu"
    todo = [(shard, name) for shard, names in job.names.items() for name in names]
    ticks = progress(todo, "quantised", len(todo))
    weight_map: dict[str, str] = {}
    size = 0
    for shard, names in job.names.items():
        tensors: dict[str, torch.Tensor] = {}
        shelf = Shelf(job.room[shard])
        # read, not mapped: mapped pages would count as this process's memory
        with safe_open(shard, framework="pt", backend="pread") as file:
            for name in names:
                next(ticks)
                tensor = job.treatment.cast(name, file.get_tensor(name))
                parts = {name: tensor}
                if name in job.treatment.packed:
                    parts = pack(name, tensor.to(device), run.model.double_quantisation)
                tensors |= {part: shelf.keep(value) for part, value in parts.items()}
        save_file(tensors, output.path(shard.name), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(sorted(tensors), shard.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if device != "cpu":
        torch.cuda.empty_cache()
    return {"metadata": {"total_size": size}, "weight_map": weight_map}


def _write_companions(run: RunConfig, pinned: Artifact, index: dict[str, Any], output: Output) -> None:
    """Settings, tokenizer and licence texts as the pinned base has them; config.json says how it was quantised."""
    for item in pinned.manifest.files:
        name = item["path"]
        if not name.endswith(".safetensors") and name not in (INDEX, "config.json"):
            output.copy(pinned.path(name), name)
    config = json.loads(pinned.path("config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantisation_config(run.model).to_dict()
    output.write_text("config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if pinned.path(INDEX).is_file():
        output.write_text(INDEX, json.dumps(index, indent=2) + "\n")
