"""One training step without weights and without a device: what it holds at each moment, and what it computes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import lcm

from finetune.architecture import config_of
from finetune.plan.holdings import hold_weights
from finetune.plan.memory import Event, Ledger, Sample, Work
from finetune.plan.record import Recording, record_answers, record_loading, record_step
from finetune.plan.settings import Settings
from finetune.plan.sharding import sharded

__all__ = [
    "Simulation",
    "hold_weights",
    "loading_bytes",
    "simulate",
    "simulate_evaluation",
    "simulate_whole",
]


@dataclass
class Simulation:
    """A simulated step: bytes at the peak by category, before the step, and the work of its FLOPs and bytes."""

    peaks: dict[str, Sample]
    """By phase: forward, loss, backward of the last, the inner and the first layer, optimizer."""
    static: Counter[str]
    paged: int
    """Bytes of paged optimizer states: on the device, but outside of torch's count."""
    work: Work
    """Of the forward and backward pass of one micro-batch."""
    timeline: list[Sample]
    trained: int
    """Trainable parameters."""

    @property
    def peak(self) -> Sample:
        """The largest moment of the step."""
        return max(self.peaks.values(), key=lambda sample: sample.total)


def simulate(settings: Settings) -> Simulation:
    """The step of the whole model, from a shallow copy of it."""
    return _from_shallow(settings, record_step)


def simulate_whole(settings: Settings) -> Simulation:
    """The step of the whole model, layer by layer."""
    found = record_step(settings, settings.architecture["num_hidden_layers"])
    return sharded(replay(found, range(0), 1), settings)


def simulate_evaluation(settings: Settings, rows: int, tokens: int, new_tokens: int = 1) -> int:
    """Bytes at the peak of an evaluation batch: `rows` prompts of `tokens`, answered by up to `new_tokens` each."""
    given = replace(settings, rows=rows, tokens=tokens, packed=False, padded=rows > 1)
    given = replace(given, autocast=False, fused=False)
    return _from_shallow(given, partial(record_answers, new_tokens=new_tokens)).peak.total


def loading_bytes(settings: Settings) -> int:
    """Bytes at the peak of loading: the model, and what stands beside the last tensor while it is quantised."""
    return _from_shallow(settings, record_loading).peak.total


def _from_shallow(settings: Settings, record: Callable[[Settings, int], Recording]) -> Simulation:
    """What `record` follows in the whole model, from a shallow copy.

    The layers of a model repeat, and so does all that they allocate, release and compute: what the first of them did
    takes place again for each of the others. A test holds this against the full simulation.
    """
    depth, first, period = settings.architecture["num_hidden_layers"], *repeating_layers(settings)
    times, rest = divmod(depth - first - 1, period)
    if times < 2 or not adapted_alike(settings):  # noqa: PLR2004
        return sharded(replay(record(settings, depth), range(0), 1), settings)
    found = record(settings, first + period + rest + 1)
    return sharded(replay(found, range(first, first + period), times), settings)


def adapted_alike(settings: Settings) -> bool:
    """Whether every layer has the same adapters: the bare name of a module cannot tell one layer from another."""
    return settings.layers is None and all(pattern.isidentifier() for pattern in settings.rank_pattern)


def repeating_layers(settings: Settings) -> tuple[int, int]:
    """The first layer from which on all repeat, and after how many: Gemma's windows, checkpointing of every n-th.

    The first layer of all, DeepSeek's dense first ones, and the last layer are never among them.
    """
    config = config_of(settings.architecture)
    kinds = getattr(config, "layer_types", None) or [None]
    period = next(
        step for step in range(1, len(kinds) + 1) if kinds[step:] == kinds[:-step] or step == len(kinds)
    )
    return max(1, getattr(config, "first_k_dense_replace", 0) or 0), lcm(period, settings.checkpoint_every)


def replay(found: Recording, repeated: range, times: int) -> Simulation:
    """The step of a deeper model, in which the layers `repeated` stand `times` times after each other."""
    ledger = Ledger()
    for event in stretched(found.events, repeated, times):
        ledger.note(event)
    static = Counter(ledger.peaks["weights"].categories)  # only grows until the step begins
    work, facts = Work(), Counter[str]()
    for layer, item in found.work.items():
        work.add(item, times if layer in repeated else 1)
    for layer, numbers in found.facts.items():
        facts.update({key: value * (times if layer in repeated else 1) for key, value in numbers.items()})
    return Simulation(ledger.peaks, static, facts["paged"], work, ledger.timeline.samples, facts["trained"])


def stretched(events: Iterable[Event], repeated: range, times: int) -> Iterator[Event]:
    """The events with those of the layers `repeated` as often as these stand in the model.

    What each layer allocated, and something outside of the layers releases, is released for each: autocast's copies
    of the weights at the end of the forward pass. What was allocated once for all layers, the last of them releases.
    """
    for inside, run in groupby(events, key=lambda event: event.layer in repeated):
        if inside:
            part = list(run)
            for _ in range(times - 1):
                yield from (event for event in part if event.born is not None)
            yield from part
            continue
        for event in run:
            for _ in range(times if event.layer is None and event.born in repeated else 1):
                yield event
