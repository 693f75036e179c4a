"""One file of a merge: fp32 sums of a few rows at a time, one rounding to bf16, everything else copied as it stands."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Queue
from threading import local
from typing import Any, TypeVar

import torch
import xxhash
from torch import Tensor

from finetune.adapter_weights import require_finite
from finetune.lora_factors import flat
from finetune.mapped_tensors import bytes_of
from finetune.merge_plan import Plan, Shard, Task
from finetune.safetensors_stream import PIECE, WAITING, Sink, written

T = TypeVar("T")
CHUNK = 1 << 20
"""Values that are worked on at once: their sums, 4 MB, stay in a core's cache."""


@dataclass
class Made:
    """What became of one file: digest and size, changed tensors with their xxh3_128, the largest rounding error."""

    sha256: str = ""
    size: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    """LoRA modules of which a tensor changed, by the network's name."""
    max_rounding_ulp: float = 0.0


class Crew:
    """Threads that each work on a chunk with one core, and room for the chunks, taken once.

    torch's own threads share every operation and wait for each other after it: on a busy machine of 2 cores a chunk
    took 60 ms so and 4 ms alone.
    """

    def __init__(self) -> None:
        self.workers = max(2, torch.get_num_threads())
        self.free: Queue[Tensor] = Queue()
        for _ in range(self.workers + WAITING + 2):
            self.free.put(torch.empty(CHUNK, dtype=torch.bfloat16))
        self._room = local()

    def __enter__(self) -> "Crew":
        self._before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.workers, "merge", torch.set_num_threads, (1,))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)

    def in_turn(self, jobs: Iterator[Callable[[], T]]) -> Iterator[T]:
        """The results in the order of the jobs, a few of them under way at any time."""
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(self._pool.submit(job))
            if len(waiting) > self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def room(self, size: int) -> tuple[Tensor, Tensor]:
        """Two vectors in fp32 for the thread that asks."""
        if size > CHUNK:
            return torch.empty(size), torch.empty(size)
        if not hasattr(self._room, "pair"):
            self._room.pair = torch.empty(CHUNK), torch.empty(CHUNK)
        first, second = self._room.pair
        return first[:size], second[:size]


@dataclass
class Piece:
    """Some rows of a merged tensor: their values, the room to give back, whether they differ, the rounding error."""

    values: Tensor
    room: Tensor | None
    differs: bool = False
    error: float = 0.0


def write_shard(shard: Shard, path: Path, crew: Crew) -> Made:
    """Write one file of the plan; it is on disk when this returns. Raises DataError where a sum is not finite."""
    made = Made()
    with written(path) as sink:
        sink.put(memoryview(shard.header))
        for task in shard.tasks:
            if task.change is None and task.source.stored is not None:
                _copy(shard, task, sink)
                continue
            digest = xxhash.xxh3_128()
            if _compute(task, sink, crew, made, digest):
                made.changed[task.entry.name] = digest.hexdigest()
                if task.change is not None and task.change.product is not None:
                    made.modules.append(task.network_name)
            shard.forget(task)
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


def _compute(task: Task, sink: Sink, crew: Crew, made: Made, digest: Any) -> bool:
    """Hand the tensor to the writer; whether the adapter made it differ from the base's."""
    differs = task.entry.shape != task.source.shape
    jobs = (partial(_merged_rows, task, begin, end, crew) for begin, end in _steps(task))
    for piece in crew.in_turn(jobs):
        made.max_rounding_ulp = max(made.max_rounding_ulp, piece.error)
        differs = differs or piece.differs
        done = _nothing if piece.room is None else partial(crew.free.put, piece.room)
        content = bytes_of(piece.values)
        digest.update(content)
        sink.put(content, done)
    task.source.release()
    return differs and task.change is not None


def _merged_rows(task: Task, begin: int, end: int, crew: Crew) -> Piece:
    """Rows of the result: summed in fp32, rounded once. Raises DataError where one is not finite."""
    _, columns = flat(task.entry.shape)
    size = (end - begin) * columns
    room = crew.free.get() if size <= CHUNK and task.source.dtype is torch.bfloat16 else None
    values = torch.empty(size, dtype=task.source.dtype) if room is None else room[:size]
    piece = Piece(values.view(end - begin, columns), room)
    base = task.source.rows(begin, end) if task.entry.shape == task.source.shape else None
    if task.change is None and base is not None:
        piece.values.copy_(base)
        return piece
    total, back = (vector.view(end - begin, columns) for vector in crew.room(size))
    if base is not None:
        total.copy_(base)
    if task.change is not None:
        task.change.apply(total, task.first_row + begin)
    piece.values.copy_(total)
    back.copy_(piece.values)
    require_finite(task.entry.name, back)
    piece.error = rounding_ulp(total, back)
    piece.differs = base is None or not torch.equal(piece.values, base)
    return piece


def sums(plan: Plan, adapted: bool = True) -> Iterator[tuple[str, int, Tensor]]:
    """(name in the network, first row, rows in fp32) of whatever is computed: the sums before they are rounded.

    With `adapted` false, the base's own values of what is not as its files have it.
    """
    for shard in plan.shards:
        for task in shard.tasks:
            if task.source.stored is not None and (task.change is None or not adapted):
                continue
            shape = task.entry.shape if adapted else task.source.shape
            for begin, end in _steps(task, shape):
                total = torch.empty(end - begin, flat(shape)[1])
                if task.entry.shape == task.source.shape or not adapted:
                    total.copy_(task.source.rows(begin, end))
                if adapted and task.change is not None:
                    task.change.apply(total, task.first_row + begin)
                yield task.network_name, task.first_row + begin, total
            task.source.release()


def rounding_ulp(exact: Tensor, rounded: Tensor) -> float:
    """Largest distance of fp32 values in units of the last place of bf16; 0.5 is round-to-nearest.

    Read as whole numbers, floats of one sign count the representable values between them (IEEE 754), and a place of
    bf16 is 2^16 places of fp32. `rounded` holds bf16 values in fp32, and room for the distances afterwards.
    """
    if not exact.numel():
        return 0.0
    least, most = torch.aminmax(rounded.view(torch.int32).sub_(exact.view(torch.int32)))
    return max(-int(least), int(most)) / 2**16


def _steps(task: Task, shape: Sequence[int] | None = None) -> Iterator[tuple[int, int]]:
    """Rows to work on at once: never those of two experts."""
    rows, columns = flat(shape or task.entry.shape)
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
