"""Adapter into base, one tensor at a time: fp32 sums, one rounding, nothing else touched."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.adapter_weights import AdapterWeights
from finetune.errors import DataError

INDEX = "model.safetensors.index.json"


@dataclass
class Merged:
    """What a merge changed: tensor names, and the largest rounding error in units of the last bf16 place."""

    changed: list[str] = field(default_factory=list)
    max_rounding_ulp: float = 0.0


def shards(base: Path) -> list[Path]:
    """The base's weight files in order. Raises DataError where its index names one that is missing."""
    if not (base / INDEX).is_file():
        return sorted(base.glob("*.safetensors"))
    named = sorted(set(json.loads((base / INDEX).read_text())["weight_map"].values()))
    missing = [name for name in named if not (base / name).is_file()]
    if missing:
        raise DataError(f"{base / INDEX} names {missing[0]}, which is not there")
    return [base / name for name in named]


@dataclass(frozen=True)
class Base:
    """A base as training saw it: its folder, the modules that were quantised and how, and on which device."""

    folder: Path
    quantised: frozenset[str]
    double_quantisation: bool
    device: str

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, bf16 tensor) of all shards, one at a time."""
        for shard in shards(self.folder):
            yield from self.shard_tensors(shard)

    def shard_tensors(self, shard: Path) -> Iterator[tuple[str, Tensor]]:
        """(name, bf16 tensor) of one shard: quantised modules after an NF4 round trip, the rest as stored."""
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no dict)
                tensor = file.get_tensor(name)
                tensor = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
                if name.removesuffix(".weight") in self.quantised:
                    tensor = nf4_round_trip(tensor.to(self.device), self.double_quantisation).cpu()
                yield name, tensor


def nf4_round_trip(weight: Tensor, double_quantisation: bool) -> Tensor:
    """The values a bitsandbytes NF4 layer multiplies with, in the weight's dtype and on its device."""
    packed, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=double_quantisation, quant_type="nf4"
    )
    restored: Tensor = bnb.dequantize_4bit(packed, state)
    return restored.to(weight.dtype)


def merged_tensors(
    base_tensors: Iterable[tuple[str, Tensor]], adapter: AdapterWeights
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the base: in fp32 where the adapter changes it, every other tensor as it came.

    Raises DataError where the adapter does not fit its tensor or the result is not finite.
    """
    for name, tensor in base_tensors:
        module = name.removesuffix(".weight")
        if module not in adapter.factors:
            yield name, tensor
            continue
        yield name, adapter.merged(module, tensor)


def write_merged(base: Base, adapter: AdapterWeights, folder: Path) -> Merged:
    """Write the merged bf16 model, sharded as the base is, and return what changed.

    Raises DataError unless every module of the adapter and every quantised one was found in the base.
    """
    merged, size, names = Merged(), 0, set()
    for shard in shards(base.folder):
        tensors = {}
        for name, total in merged_tensors(base.shard_tensors(shard), adapter):
            tensors[name] = _rounded(name, total, merged)
        size += sum(tensor.nbytes for tensor in tensors.values())
        names |= {name.removesuffix(".weight") for name in tensors}
        save_file(tensors, folder / shard.name, metadata={"format": "pt"})
    lacking = sorted((set(adapter.factors) | base.quantised) - names)
    if lacking:
        raise DataError(
            f"{len(lacking)} modules that were trained are not in the base, first {lacking[0]}: another base?"
        )
    if (base.folder / INDEX).is_file():
        _write_index(base.folder, folder, size)
    return merged


def _rounded(name: str, tensor: Tensor, merged: Merged) -> Tensor:
    if tensor.dtype is not torch.float32:
        return tensor
    rounded = tensor.to(torch.bfloat16)
    merged.changed.append(name)
    merged.max_rounding_ulp = max(merged.max_rounding_ulp, rounding_ulp(tensor, rounded))
    return rounded


def rounding_ulp(exact: Tensor, rounded: Tensor) -> float:
    """Largest distance in units of the last place of bf16 (8 bits of significand); 0.5 is round-to-nearest."""
    _, exponent = torch.frexp(exact)
    place = torch.ldexp(torch.ones_like(exact), (exponent - 8).clamp(min=-133))
    return float(((exact - rounded.float()).abs() / place).max())


def _write_index(base: Path, folder: Path, total_size: int) -> None:
    index: dict[str, Any] = json.loads((base / INDEX).read_text())
    index["metadata"] = {"total_size": total_size}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
