"""What a run is going to take, known before its first step: tokens and FLOPs step by step, and the planned memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from finetune.chat import IGNORE
from finetune.config.plan import Device, HardwareConfig
from finetune.dataset import TrainingRows
from finetune.flops import Flops


@dataclass(frozen=True)
class Expected:
    """Sums after 0, 1, 2, … optimizer steps: a resumed run, too, finds its place by its step."""

    tokens: Sequence[int]
    """Of rows, without padding."""
    trained_tokens: Sequence[int]
    flops: Sequence[float]
    """That the steps need (finetune.flops)."""
    peak_gib: float | None = None
    """What the plan says: on CUDA what torch allocates, on a CPU what the process takes."""
    bf16_tflops: float | None = None
    """Of the hardware's record; None: no share of it can be told."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.tokens) - 1


def expected_of(
    data: TrainingRows,
    global_batch: int,
    flops: Flops,
    hardware: HardwareConfig,
    plan: Mapping[str, Any] | None,
) -> Expected:
    """Of a run that takes `data` in its order, `global_batch` rows a step. `plan`: the content of plan.json."""
    rows = [(len(row.ids), sum(label != IGNORE for label in row.labels)) for row in data.rows]
    costs = [flops.row(*row) for row in rows]
    starts = range(0, len(data.order), global_batch)
    steps = [data.order[start : start + global_batch] for start in starts]
    peak = None
    if plan is not None:
        on_gpu = hardware.device is Device.cuda
        peak = plan["peak_allocated_gib"] if on_gpu else plan["device_gib"]["total"]
    return Expected(
        tokens=_sums(sum(rows[index][0] for index in step) for step in steps),
        trained_tokens=_sums(sum(rows[index][1] for index in step) for step in steps),
        flops=_sums(sum(costs[index] for index in step) for step in steps),
        peak_gib=peak,
        bf16_tflops=hardware.bf16_tflops,
    )


def _sums(values: Any) -> list[Any]:
    return list(accumulate(values, initial=0))
