"""A plan beside what the device did: errors, margins, the table and the refusal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.config import RunConfig
from finetune.plan.settings import Settings

MIB, GIB = 2**20, 2**30


@dataclass
class Measured:
    """What the device did, filled as it goes: bytes, seconds, and tokens with their padding."""

    device: str
    settings: Settings
    step_tokens: int
    """That an optimizer step computes."""
    doing: str = "loading"
    out_of_memory: bool = False
    left: int | None = None
    """What other processes left of the device when memory ran out; None: it did not, or the system does not tell."""
    step_s: list[float] = field(default_factory=list)
    allocated: int | None = None
    """The most that a step held: torch's count on CUDA, the followed tensors on a CPU."""
    reserved: int | None = None
    """By torch's allocator; None on a CPU."""
    used: int | None = None
    """Of the whole device; on a CPU the largest resident size of the process."""
    checkpoint_s: float | None = None
    checkpoint: int | None = None
    evaluation_s: float | None = None
    evaluation: int | None = None
    """The most that the evaluation batch held."""

    @property
    def tokens_per_s(self) -> float | None:
        """Of the steps after the first."""
        timed = self.step_s[1:]
        return self.step_tokens * len(timed) / sum(timed) if timed else None


@dataclass(frozen=True)
class Comparison:
    """A predicted number beside the measured one. `margin` is a setting and its value; None: for information."""

    name: str
    unit: str
    predicted: float | None
    measured: float | None
    margin: tuple[str, float] | None = None

    @property
    def error(self) -> float | None:
        """Relative, positive where too much is predicted."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1

    @property
    def outside(self) -> bool:
        """Whether the error is larger than the margin."""
        return self.margin is not None and self.error is not None and abs(self.error) > self.margin[1]

    @property
    def outcome(self) -> str:
        """In words, for the table."""
        if self.margin is None:
            return "for information"
        if self.error is None:
            return "not compared: none is predicted" if self.predicted is None else "not measured"
        return "too far" if self.outside else "ok"


def comparisons(run: RunConfig, plan: Mapping[str, Any], found: Measured) -> list[Comparison]:
    """Memory and speed, which have margins, and what else a plan says and the device shows.

    Speeds count the tokens of the longest step, padding too: the step that `step_s` of the plan is about.
    """
    speed = found.step_tokens / plan["step_s"] if plan["step_s"] else None
    margins = ("plan.memory_margin", run.plan.memory_margin), ("plan.speed_margin", run.plan.speed_margin)
    return [
        Comparison("peak of a step", "GiB", plan["peak_allocated_gib"], gib(found.allocated), margins[0]),
        Comparison("speed", "tokens/s", speed, found.tokens_per_s, margins[1]),
        Comparison("peak of evaluation", "GiB", plan["evaluation_gib"], gib(found.evaluation)),
        Comparison("whole device", "GiB", plan["device_gib"]["total"], gib(found.used)),
    ]


def gib(bytes_: int | None) -> float | None:
    """GiB of bytes, None of None."""
    return None if bytes_ is None else bytes_ / GIB


def report(run: RunConfig, compared: Sequence[Comparison], found: Measured) -> dict[str, Any]:
    """preflight.json: what was predicted and measured, as plain values; null for what is not known."""
    memory, speed = compared[:2]
    return {
        "device": found.device,
        "predicted_allocated_gib": memory.predicted,
        "measured_allocated_gib": memory.measured,
        "memory_error": memory.error,
        "reserved_gib": gib(found.reserved),
        "device_used_gib": gib(found.used),
        "left_gib": gib(found.left),
        "predicted_tokens_per_s": speed.predicted,
        "measured_tokens_per_s": speed.measured,
        "speed_error": speed.error,
        "step_s": found.step_s,
        "checkpoint_s": found.checkpoint_s,
        "checkpoint_mib": None if found.checkpoint is None else found.checkpoint / MIB,
        "evaluation_s": found.evaluation_s,
        "evaluation_peak_gib": gib(found.evaluation),
        "margins": {"memory": run.plan.memory_margin, "speed": run.plan.speed_margin},
        "out_of_memory": found.out_of_memory,
        "passed": not found.out_of_memory and not any(item.outside for item in compared),
    }


def table(compared: Sequence[Comparison], found: Measured) -> str:
    """Predicted beside measured, as plain text of at most 100 columns, and the seconds that nobody predicts."""
    rows = [("", "predicted", "measured", "", "error", "margin", "")]
    for item in compared:
        error = "" if item.error is None else f"{item.error:+.1%}"
        margin = "" if item.margin is None else f"{item.margin[1]:.0%}"
        numbers = (_short(item.predicted), _short(item.measured))
        rows.append((item.name, *numbers, item.unit, error, margin, item.outcome))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  "
        + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, "<>><>><", widths, strict=True))
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), *_seconds(found)])


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(found: Measured) -> list[str]:
    """Steps, checkpoint and evaluation batch as far as they came."""
    lines = [f"  steps {', '.join(f'{second:.2f}' for second in found.step_s)} s"] if found.step_s else []
    if found.checkpoint_s is not None and found.checkpoint is not None:
        lines.append(f"  checkpoint {found.checkpoint / MIB:.1f} MiB in {found.checkpoint_s:.2f} s")
    if found.evaluation_s is not None:
        lines.append(f"  evaluation batch {found.evaluation_s:.2f} s")
    return lines


def problems(plan: Mapping[str, Any], compared: Sequence[Comparison], found: Measured) -> list[str]:
    """One line for each reason to refuse, with what to do; none where all is within its margin."""
    if found.out_of_memory:
        return [_does_not_fit(plan, found)]
    return [_too_far(item) for item in compared if item.outside]


def _does_not_fit(plan: Mapping[str, Any], found: Measured) -> str:
    held = "" if found.allocated is None else f" with {found.allocated / GIB:.2f} GiB allocated"
    needed, limit = plan["device_gib"]["total"], plan["device_gib"]["limit"]
    said = f"out of memory in {found.doing}{held}: the plan says {plan['verdict']}, {needed:.2f} of {limit:.2f} GiB"
    if found.left is not None and found.left / GIB < needed:
        return f"{said}, and what else runs there leaves {found.left / GIB:.2f}; end that, or take another device"
    return f"{said}; lower train.micro_batch (`make plan` with plan.search=true names settings)"


def _too_far(item: Comparison) -> str:
    setting, margin = item.margin or ("", 0.0)
    error = item.error or 0.0
    enough = math.ceil(100 * abs(error)) / 100
    accept = f", {setting}={enough:g} accepts it" if enough <= 1 else ""
    return (
        f"{item.name}: {_short(item.measured)} {item.unit} measured, {_short(item.predicted)} predicted "
        f"({error:+.1%}), further apart than {setting}={margin:g}; the same command measures again{accept}"
    )
