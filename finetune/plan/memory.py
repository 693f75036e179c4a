"""What a step holds in memory, from every allocation and release of its tensors, real or fake."""

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import bitsandbytes  # noqa: F401  (registers its operators)
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

SAMPLES = 600
"""Points of the timeline that are kept; neighbours are joined by their larger total."""

DEQUANTISED = "dequantised weights"
DEVICE = torch.ops.prim.device.default
UNSAFE_VIEW = torch.ops.aten._unsafe_view.default
"""A view in all but its schema."""

GEMM = torch.ops.bitsandbytes.gemm_4bit.default
DEQUANTISE_KERNELS = 3
"""Of double-quantised weights: scales, their offset, weights (bitsandbytes 0.50.2, backends/cuda/ops.py)."""

Scratch = Callable[[Any, tuple[Any, ...]], int]
"""Bytes that an operator allocates and frees inside its kernel, from the operator and its arguments."""


@dataclass
class Work:
    """What a step computes and moves: floating-point operations, and bytes read and written by kind of operator."""

    flops: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    operators: int = 0

    def add(self, other: "Work", times: int) -> None:
        """Take in a multiple of another work."""
        for mine, theirs in ((self.flops, other.flops), (self.bytes, other.bytes)):
            mine.update({key: times * value for key, value in theirs.items()})
        self.operators += times * other.operators


@dataclass
class Sample:
    """The memory at one moment: the phase it fell into and bytes by category."""

    phase: str
    categories: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all categories."""
        return sum(self.categories.values())


class Event(NamedTuple):
    """An allocation, or with negative bytes a release."""

    phase: str
    category: str
    bytes: int
    born: int | None
    """The layer that the storage was allocated in; None outside of the layers."""
    layer: int | None
    """The layer that is at work."""


class Ledger:
    """The memory over a sequence of events: what is held now, the largest moment of each phase, the timeline."""

    def __init__(self) -> None:
        self.categories: Counter[str] = Counter()
        self.now = 0
        self.peaks: dict[str, Sample] = {}
        self.timeline = Timeline()
        self._highest: Counter[str] = Counter()

    def note(self, event: Event) -> None:
        """Take one event in."""
        self.categories[event.category] += event.bytes
        self.now += event.bytes
        self.timeline.add(event.phase, self)
        if self.now > self._highest[event.phase]:
            self._highest[event.phase] = self.now
            self.peaks[event.phase] = Sample(event.phase, +self.categories)


class MemoryTracker(TorchDispatchMode):
    """Follows each storage from the operator that makes it to its release; bytes, by category.

    PyTorch's own MemTracker fails on frozen parameters and knows nothing of quantised ones.
    """

    def __init__(self, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.category = self.phase = "weights"
        self.layer: int | None = None
        self.ledger = Ledger()
        self.events: list[Event] = []
        self.work: defaultdict[int | None, Work] = defaultdict(Work)
        """By the layer that was at work."""
        self._scratch = scratch
        self._live: dict[int, tuple[int, str, int | None, Any]] = {}

    @property
    def categories(self) -> Counter[str]:
        """What is held now."""
        return self.ledger.categories

    @property
    def peak(self) -> Sample:
        """The largest moment of all."""
        return max(self.ledger.peaks.values(), key=lambda sample: sample.total)

    @contextmanager
    def labelled(self, category: str, phase: str | None = None) -> Iterator[None]:
        """Count what is allocated inside under a category."""
        before = self.category, self.phase
        self.category, self.phase = category, phase or self.phase
        try:
            yield
        finally:
            self.category, self.phase = before

    def hold(self, tensor: torch.Tensor, category: str) -> None:
        """Count a tensor's storage, once, or move it to another category."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            bytes_, old, born, reference = self._live[key]
            self._live[key] = (bytes_, category, born, reference)
            self._note(old, -bytes_, born)
            self._note(category, bytes_, born)
            return
        bytes_, born = storage.nbytes(), self.layer
        self._live[key] = (bytes_, category, born, weakref.ref(storage, lambda _: self._release(key)))
        self._note(category, bytes_, born)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard costs two calls an operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it made and what it did."""
        if func is DEVICE:  # no operator: fake tensors are asked for their device through here
            return args[0].device
        if torch.is_inference_mode_enabled():  # where operators arrive before they are taken apart
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        if func.is_view or func is UNSAFE_VIEW:
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        made = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        for tensor in made:
            if tensor.untyped_storage()._cdata not in self._live:
                self.hold(tensor, DEQUANTISED if "dequantize" in func.name() else self.category)
        self._count(func, args, kwargs or {}, result, made)
        scratch = self._scratch(func, args) if self._scratch else 0
        self.spike(DEQUANTISED, scratch)  # beside the result
        if scratch and func is GEMM:
            self._count_dequantised(args[1], scratch)
        return result

    def spike(self, category: str, bytes_: int) -> None:
        """Count bytes that are released at once."""
        if bytes_:
            self._note(category, bytes_, self.layer)
            self._note(category, -bytes_, self.layer)

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[torch.Tensor]) -> None:
        work = self.work[self.layer]
        work.operators += 1
        formula = flop_registry.get(func._overloadpacket)
        kind = "products" if formula else "dequantise" if "dequantize" in func.name() else "rest"
        if formula:
            work.flops[self.category] += formula(*args, **kwargs, out_val=result)
        read = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        work.bytes[kind] += sum(tensor.nbytes for tensor in (*read, *made))

    def _count_dequantised(self, packed: torch.Tensor, scratch: int) -> None:
        """gemm_4bit past its fused sizes: one kernel writes the bf16 copy, the product reads that instead."""
        work = self.work[self.layer]
        work.bytes["dequantise"] += scratch + packed.nbytes
        work.bytes["products"] += scratch - packed.nbytes
        work.operators += DEQUANTISE_KERNELS

    def _release(self, key: int) -> None:
        bytes_, category, born, _ = self._live.pop(key)
        self._note(category, -bytes_, born)

    def _note(self, category: str, bytes_: int, born: int | None) -> None:
        event = Event(self.phase, category, bytes_, born, self.layer)
        self.events.append(event)
        self.ledger.note(event)


class Timeline:
    """The memory over the events of a step, thinned to some hundred points; each peak survives."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._stride, self._events, self._best = 1, 0, -1

    def add(self, phase: str, ledger: Ledger) -> None:
        """Note one allocation or release."""
        if self._events % self._stride == 0:
            self.samples.append(Sample(phase, dict(ledger.categories)))
            self._best = ledger.now
        elif ledger.now > self._best:
            self.samples[-1] = Sample(phase, dict(ledger.categories))
            self._best = ledger.now
        self._events += 1
        if len(self.samples) == 2 * SAMPLES:
            pairs = zip(self.samples[::2], self.samples[1::2], strict=True)
            self.samples = [max(pair, key=lambda sample: sample.total) for pair in pairs]
            self._stride *= 2
