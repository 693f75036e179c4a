"""The base as a merge reads it: rows of one tensor at a time, quantised modules as training multiplied with them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import bitsandbytes.functional as bnb
import torch
from torch import Tensor

from finetune.base_checks import shards
from finetune.errors import DataError
from finetune.lora_factors import flat
from finetune.mapped_tensors import NAMES, tensor_of
from finetune.nf4 import BLOCK_SIZE, Packed, parts_of
from finetune.safetensors_stream import Mapped


@dataclass(frozen=True)
class Source:
    """A tensor of the base as a matrix (`flat`): what `rows(begin, end)` gives has the values that training saw."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """bf16 for whatever is stored in a floating type."""
    rows: Callable[[int, int], Tensor]
    whole: bool = False
    """Whether `rows` is to be asked for all at once."""
    stored: str | None = None
    """The tensor of the file whose bytes these are already; None where they are computed."""
    pages: Sequence[str] = ()
    """Tensors of the file that it is read from."""
    release: Callable[[], None] = lambda: None
    """Lets go of what `rows` keeps between calls."""


@dataclass(frozen=True)
class Base:
    """A base as training saw it: its pinned folder, the modules that were quantised and how, and on which device.

    `kept` is the folder of its quantised weights, where they were kept. Without `quantised` it is the original base.
    """

    folder: Path
    quantised: frozenset[str]
    double_quantisation: bool
    device: str
    kept: Path | None = None

    @property
    def read(self) -> Path:
        """The folder whose weights are read."""
        return self.kept or self.folder

    def shards(self) -> list[Path]:
        """The weight files to read, in order. Raises DataError where an index names one that is missing."""
        return shards(self.read)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, bf16 tensor) of all shards, one at a time."""
        for shard in self.shards():
            for source in self.sources(Mapped(shard)):
                rows, _ = flat(source.shape)
                yield source.name, source.rows(0, rows).reshape(source.shape).clone()
                source.release()

    def sources(self, mapped: Mapped, network_names: Callable[[str], str] = str) -> list[Source]:
        """The tensors of one shard, in the order of their bytes.

        `network_names` says what the network calls a tensor of the file, as the list of quantised modules does. Raises
        DataError where the shard holds other modules in 4 bits than those that training quantised.
        """
        return [
            self._source(mapped, name, parts, network_names(name))
            for name, parts in parts_of(mapped.entries).items()
        ]

    def _source(self, mapped: Mapped, name: str, parts: Sequence[str], known: str) -> Source:
        quantised = known.removesuffix(".weight") in self.quantised
        if parts and not quantised:
            raise DataError(f"{mapped.path}: {name} is quantised, but was not when the adapter was trained")
        if parts:
            packed = Packed(name, parts, lambda part: tensor_of(mapped, part), self.device)
            _, columns = flat(packed.shape)
            # blocks that run over the ends of rows are left to the library
            whole = columns % BLOCK_SIZE > 0
            rows, pages = packed.rows, [name, *parts]
            return Source(name, packed.shape, packed.dtype, rows, whole, pages=pages, release=packed.release)
        entry = mapped.entries[name]
        tensor = tensor_of(mapped, name)
        dtype = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
        if quantised:
            made = _Once(lambda: self._round_trip(tensor))
            return Source(name, entry.shape, dtype, made.rows, pages=[name], release=made.release)
        matrix = tensor.reshape(flat(entry.shape))
        return Source(
            name,
            entry.shape,
            dtype,
            lambda begin, end: matrix[begin:end].to(dtype),
            stored=name if entry.dtype == NAMES[dtype] else None,
            pages=[name],
        )

    def _round_trip(self, tensor: Tensor) -> Tensor:
        weight = tensor.to(self.device, torch.bfloat16)
        return nf4_round_trip(weight, self.double_quantisation).cpu()


class _Once:
    """Rows of a matrix that is made when the first of them are asked for, by whichever thread."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make, self.lock = make, Lock()
        self.matrix: Tensor | None = None

    def rows(self, begin: int, end: int) -> Tensor:
        with self.lock:
            if self.matrix is None:
                self.matrix = self.make()
        return self.matrix[begin:end]

    def release(self) -> None:
        self.matrix = None


def nf4_round_trip(weight: Tensor, double_quantisation: bool) -> Tensor:
    """The values a bitsandbytes NF4 layer multiplies with, in the weight's dtype and on its device."""
    packed, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=BLOCK_SIZE, compress_statistics=double_quantisation, quant_type="nf4"
    )
    restored: Tensor = bnb.dequantize_4bit(packed, state)
    return restored.to(weight.dtype)
