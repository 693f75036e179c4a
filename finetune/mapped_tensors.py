"""torch tensors over the bytes of safetensors files, and bytes of torch tensors; nothing is copied."""

import warnings
from typing import Any

import torch
from torch import Tensor

from finetune.safetensors_stream import Mapped

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F64": torch.float64,
    "I64": torch.int64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def tensor_of(mapped: Mapped, name: str) -> Tensor:
    """A tensor of a mapped file: its pages are the memory, so it must not be written to."""
    entry = mapped.entries[name]
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(mapped.bytes_of(name), dtype=torch.uint8)
    return flat.view(DTYPES[entry.dtype]).view(entry.shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, which keep it alive."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
