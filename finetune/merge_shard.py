"""One file of a merge: fp32 sums of a few rows at a time, one rounding to bf16, everything else copied as it stands."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from finetune.adapter_weights import require_finite
from finetune.lora_factors import flat
from finetune.mapped_tensors import bytes_of
from finetune.merge_plan import Plan, Shard, Task
from finetune.safetensors_stream import PIECE, WAITING, Sink, written

CHUNK = 1 << 20
"""Values that are worked on at once: their sums, 4 MB, stay in a core's cache."""


@dataclass
class Made:
    """What became of one file: digest and size, the tensors that changed with theirs, the largest rounding error."""

    sha256: str = ""
    size: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    """LoRA modules of which a tensor changed, by the network's name."""
    max_rounding_ulp: float = 0.0


class Scratch:
    """Room for one chunk, taken once: what is handed to the writer comes back when it is written."""

    def __init__(self) -> None:
        self.total, self.back = torch.empty(CHUNK), torch.empty(CHUNK)
        self.free: Queue[Tensor] = Queue()
        for _ in range(WAITING + 2):
            self.free.put(torch.empty(CHUNK, dtype=torch.bfloat16))


def write_shard(shard: Shard, path: Path, scratch: Scratch) -> Made:
    """Write one file of the plan; it is on disk when this returns. Raises DataError where a sum is not finite."""
    made = Made()
    digests: dict[str, Any] = {}
    with written(path) as sink:
        sink.put(memoryview(shard.header))
        for task in shard.tasks:
            if task.change is None and task.source.stored is not None:
                _copy(shard, task, sink)
                continue
            digest = hashlib.sha256() if task.change is not None else None
            if _compute(task, sink, scratch, made, digest):
                digests[task.entry.name] = digest
                if task.change is not None and task.change.product is not None:
                    made.modules.append(task.network_name)
            shard.forget(task)
    made.changed = {name: digest.hexdigest() for name, digest in digests.items()}
    made.sha256, made.size = sink.sha256.hexdigest(), sink.size
    return made


def _copy(shard: Shard, task: Task, sink: Sink) -> None:
    size = task.entry.end - task.entry.begin
    for begin in range(0, size, PIECE):
        piece = shard.mapped.bytes_of(str(task.source.stored), begin, min(size, begin + PIECE))
        last = begin + PIECE >= size
        sink.put(piece, partial(shard.forget, task) if last else _nothing)


def _nothing() -> None:
    pass


def _compute(task: Task, sink: Sink, scratch: Scratch, made: Made, digest: Any) -> bool:
    """Hand the tensor to the writer; whether it differs from the base's."""
    rows, columns = flat(task.entry.shape)
    resized = task.entry.shape != task.source.shape
    differs = resized
    for begin, end in _steps(task, rows, columns):
        size = (end - begin) * columns
        fits = size <= CHUNK and task.source.dtype is torch.bfloat16
        room = scratch.free.get() if fits else torch.empty(size, dtype=task.source.dtype)
        piece = room[:size].view(end - begin, columns)
        base = None if resized else task.source.rows(begin, end)
        if task.change is None and base is not None:
            piece.copy_(base)
        else:
            error = _merge_rows(task, begin, base, piece, scratch)
            made.max_rounding_ulp = max(made.max_rounding_ulp, error)
            differs = differs or base is None or not torch.equal(piece, base)
        sink.put(bytes_of(piece), partial(scratch.free.put, room) if fits else _nothing, digest)
    return differs and task.change is not None


def _merge_rows(task: Task, begin: int, base: Tensor | None, piece: Tensor, scratch: Scratch) -> float:
    """Sum in fp32 and round into `piece`; the largest rounding error in units of the last place."""
    size = piece.numel()
    room = (scratch.total, scratch.back) if size <= CHUNK else (torch.empty(size), torch.empty(size))
    total, back = (buffer[:size].view(piece.shape) for buffer in room)
    if base is not None:
        total.copy_(base)
    if task.change is not None:
        task.change.apply(total, task.first_row + begin)
    piece.copy_(total)
    back.copy_(piece)
    require_finite(task.entry.name, back)
    return rounding_ulp(total, back)


def sums(plan: Plan, adapted: bool = True) -> Iterator[tuple[str, int, Tensor]]:
    """(name in the network, first row, rows in fp32) of whatever is computed: the sums before they are rounded.

    With `adapted` false, the base's own values of what is not as its files have it.
    """
    for shard in plan.shards:
        for task in shard.tasks:
            rows, columns = flat(task.entry.shape if adapted else task.source.shape)
            if task.source.stored is not None and (task.change is None or not adapted):
                continue
            for begin, end in _steps(task, rows, columns):
                total = torch.empty(end - begin, columns)
                if task.entry.shape == task.source.shape or not adapted:
                    total.copy_(task.source.rows(begin, end))
                if adapted and task.change is not None:
                    task.change.apply(total, task.first_row + begin)
                yield task.network_name, task.first_row + begin, total


def rounding_ulp(exact: Tensor, rounded: Tensor) -> float:
    """Largest distance of fp32 values in units of the last place of bf16; 0.5 is round-to-nearest.

    Read as whole numbers, floats of one sign count the representable values between them (IEEE 754), and a place of
    bf16 is 2^16 places of fp32. `rounded` holds bf16 values in fp32.
    """
    if not exact.numel():
        return 0.0
    least, most = torch.aminmax(exact.view(torch.int32) - rounded.view(torch.int32))
    return max(-int(least), int(most)) / 2**16


def _steps(task: Task, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Rows to work on at once: never those of two experts."""
    change = task.change
    if rows and (task.source.whole or (change is not None and change.whole)):
        yield 0, rows
        return
    most = max(1, CHUNK // max(columns, 1))
    begin = 0
    while begin < rows:
        end = min(rows, begin + most)
        if change is not None and change.block is not None:
            end = min(end, begin + change.block - (task.first_row + begin) % change.block)
        yield begin, end
        begin = end
