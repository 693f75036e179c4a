"""bitsandbytes' NF4 tensors as they stand in safetensors files: packed, found and unpacked one at a time."""

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch import Tensor

BLOCK_SIZE = 64
"""Values that share a scale: QLoRA's (arXiv 2305.14314), and the one that bitsandbytes' layers take."""
MARK = ".quant_state.bitsandbytes__nf4"
"""What the name of a packed weight goes on with where its shape and dtype are kept."""
NESTED_BLOCK_SIZE = 256
"""Scales that share a scale under double quantisation (bitsandbytes 0.50.2, functional.py, quantize_4bit)."""
MAPS_AND_HEADER = 2048
"""Bytes a packed weight: its two maps (1088) and its names in the file's header."""


def pack(name: str, weight: Tensor, double_quantisation: bool) -> dict[str, Tensor]:
    """The tensors that stand for one bf16 weight, by name: what `from_pretrained` would quantise it to."""
    packed, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=BLOCK_SIZE, compress_statistics=double_quantisation, quant_type="nf4"
    )
    parts = {f"{name}.{key}": value.cpu() for key, value in state.as_dict(packed=True).items()}
    return {name: packed.cpu(), **parts}


def packed_bytes(values: int, double_quantisation: bool) -> int:
    """Bytes on disk of a packed weight of so many values, rounded up."""
    blocks = -(-values // BLOCK_SIZE)
    scales = blocks + 4 * -(-blocks // NESTED_BLOCK_SIZE) if double_quantisation else 4 * blocks
    return -(-values // 2) + scales + MAPS_AND_HEADER


def weight_of(layer: Any) -> Tensor:
    """What a plain or a 4-bit linear layer multiplies with; shape [out, in]."""
    weight: Tensor = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    kept = kept_weight(layer, state.dtype)
    return bnb.dequantize_4bit(weight.data, state) if kept is None else kept


def keep_weight(layer: Any) -> None:
    """Dequantise the weight of a 4-bit layer for good: it stands beside the packed one, until that is replaced."""
    layer.weight.quant_state.kept = weight_of(layer)


def kept_weight(layer: Any, dtype: torch.dtype) -> Tensor | None:
    """What `keep_weight` left of a layer; None where there is none, or not in this precision."""
    kept: Tensor | None = getattr(getattr(layer.weight, "quant_state", None), "kept", None)
    return kept if kept is not None and kept.dtype is dtype else None


class Shelf:
    """Room for the tensors of a file in one piece.

    Results that lie among the temporaries of the next tensor leave holes too small for it: 950 MiB were held for a
    file of 520 MiB that becomes one of 150.
    """

    def __init__(self, size: int) -> None:
        self.room, self.used = torch.empty(size, dtype=torch.uint8), 0

    def keep(self, tensor: Tensor) -> Tensor:
        """The same values in the room; memory that is never written to is never taken."""
        begin, self.used = self.used, self.used + shelf_bytes(tensor.nbytes)
        kept = self.room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return kept.copy_(tensor)


def shelf_bytes(size: int) -> int:
    """Bytes that a tensor of so many takes on a shelf: whole multiples of the largest element."""
    return -(-size // 16) * 16


def parts_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The weights of a file and, for a packed one, the names of the tensors that belong to it; none for the others."""
    found = list(names)
    packed = {name.removesuffix(MARK) for name in found if name.endswith(MARK)}
    parts: dict[str, list[str]] = {}
    for name in found:
        owner = name.removesuffix(MARK) if name.endswith(MARK) else name.rpartition(".")[0]
        if owner in packed:
            parts.setdefault(owner, []).append(name)
        else:
            parts.setdefault(name, [])
    return parts


class Packed:
    """A packed weight whose rows are dequantised as they are asked for, to the values that its layer multiplies with.

    `read` gives a tensor of the file by name; what is computed is computed on `device` and lies on the CPU.
    """

    def __init__(self, name: str, parts: Iterable[str], read: Callable[[str], Tensor], device: str) -> None:
        stored = {part.removeprefix(f"{name}."): read(part) for part in parts}
        self.state = bnb.QuantState.from_dict(stored, device=torch.device(device))
        self.shape: tuple[int, ...] = tuple(self.state.shape)
        self.dtype: torch.dtype = self.state.dtype
        self.device, self.packed = device, read(name).reshape(-1)
        self.scales: Tensor | None = None
        self.lock = Lock()

    def rows(self, begin: int, end: int) -> Tensor:
        """Rows of the matrix, `begin` at the first value of a block."""
        columns = self.shape[-1]
        first, last = begin * columns, end * columns
        if first % BLOCK_SIZE:
            raise ValueError(f"row {begin} begins within a block of {BLOCK_SIZE} values")
        scales = self._scales()[first // BLOCK_SIZE : -(-last // BLOCK_SIZE)]
        state = bnb.QuantState(
            absmax=scales.contiguous(),
            shape=torch.Size([end - begin, columns]),
            code=self.state.code,
            blocksize=BLOCK_SIZE,
            quant_type="nf4",
            dtype=self.dtype,
        )
        packed = self.packed[first // 2 : -(-last // 2)].to(self.device)
        restored: Tensor = bnb.dequantize_4bit(packed.reshape(-1, 1), state)
        return restored.cpu()

    def _scales(self) -> Tensor:
        """The scale of each block in fp32; nested ones are unpacked once (functional.py, dequantize_4bit)."""
        with self.lock:
            if self.scales is None:
                state = self.state
                found = (
                    bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
                    if state.nested
                    else None
                )
                self.scales = (state.absmax if found is None else found).float()
            return self.scales

    def release(self) -> None:
        """Let go of what was unpacked of the scales."""
        self.scales = None
