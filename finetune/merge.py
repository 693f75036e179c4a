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
from finetune.base_checks import INDEX, shards
from finetune.errors import DataError
from finetune.nf4 import BLOCK_SIZE, parts_of, unpack


@dataclass
class Merged:
    """What a merge changed: tensor names, and the largest rounding error in units of the last bf16 place."""

    changed: list[str] = field(default_factory=list)
    max_rounding_ulp: float = 0.0


@dataclass(frozen=True)
class Base:
    """A base as training saw it: its pinned folder, the modules that were quantised and how, and on which device.

    `kept` is the folder of its quantised weights, where they were kept.
    """

    folder: Path
    quantised: frozenset[str]
    double_quantisation: bool
    device: str
    kept: Path | None = None

    def shards(self) -> list[Path]:
        """The weight files to read, in order. Raises DataError where an index names one that is missing."""
        return shards(self.kept or self.folder)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, bf16 tensor) of all shards, one at a time."""
        for shard in self.shards():
            yield from self.shard_tensors(shard)

    def shard_tensors(self, shard: Path) -> Iterator[tuple[str, Tensor]]:
        """(name, bf16 tensor) of one shard: quantised modules as their layers multiply with them, the rest as stored.

        Raises DataError where the shard holds other modules in 4 bits than those that training quantised.
        """
        with safe_open(shard, framework="pt") as file:
            for name, parts in parts_of(file.keys()).items():
                quantised = name.removesuffix(".weight") in self.quantised
                if parts and not quantised:
                    raise DataError(f"{shard}: {name} is quantised, but was not when the adapter was trained")
                tensor = unpack(name, parts, file.get_tensor, self.device) if parts else file.get_tensor(name)
                tensor = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
                if quantised and not parts:
                    tensor = nf4_round_trip(tensor.to(self.device), self.double_quantisation)
                yield name, tensor.cpu()


def nf4_round_trip(weight: Tensor, double_quantisation: bool) -> Tensor:
    """The values a bitsandbytes NF4 layer multiplies with, in the weight's dtype and on its device."""
    packed, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=BLOCK_SIZE, compress_statistics=double_quantisation, quant_type="nf4"
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
    merged, size = Merged(), 0
    files: dict[str, str] = {}
    for shard in base.shards():
        tensors = {}
        for name, total in merged_tensors(base.shard_tensors(shard), adapter):
            tensors[name] = _rounded(name, total, merged)
        size += sum(tensor.nbytes for tensor in tensors.values())
        files |= dict.fromkeys(sorted(tensors), shard.name)
        save_file(tensors, folder / shard.name, metadata={"format": "pt"})
    names = {name.removesuffix(".weight") for name in files}
    lacking = sorted((set(adapter.factors) | base.quantised) - names)
    if lacking:
        raise DataError(
            f"{len(lacking)} modules that were trained are not in the base, first {lacking[0]}: another base?"
        )
    if (base.folder / INDEX).is_file():
        index: dict[str, Any] = {"metadata": {"total_size": size}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
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
