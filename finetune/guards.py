"""What stops or marks a run: no number, a spike, no memory, nothing to learn."""

import gc
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune.chat import IGNORE
from finetune.config.schema import TrainConfig
from finetune.dataset import TrainingRows
from finetune.errors import MachineError, RefusedError

IDS_SHOWN = 8
OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""torch has a type of error for CUDA's allocator alone; driver, bitsandbytes and the host's allocator use words."""


def listed(ids: Sequence[str]) -> str:
    """Row ids for a message, the first few of many."""
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    return ", ".join(ids[:IDS_SHOWN]) + more


def require_trained_tokens(rows: TrainingRows, train: TrainConfig) -> None:
    """Raise RefusedError for a step none of whose tokens is trained: it would change nothing but the schedule."""
    counts = [sum(label != IGNORE for label in row.labels[1:]) for row in rows.rows]
    size = train.global_batch
    for start in range(0, len(rows.order), size):
        batch = rows.order[start : start + size]
        if not any(counts[index] for index in batch):
            ids = listed([rows.ids[index] for index in batch])
            raise RefusedError(f"step {start // size + 1} has no trained token; look at the rows {ids}")


def require_finite_step(
    step: int, norm: float, losses: Sequence[float], batches: Sequence[Sequence[str]]
) -> None:
    """Raise RefusedError where a step's gradient norm or a micro-batch's loss is no number, with the rows it may be.

    Called before the optimizer moves, so that the parameters are still those of the last good step.
    """
    bad = [ids for loss, ids in zip(losses, batches, strict=False) if not math.isfinite(loss)]
    if not bad and math.isfinite(norm):
        return
    what, rows = ("loss", bad) if bad else ("gradient", batches)
    raise RefusedError(
        f"step {step}: the {what} is not a number, found before the weights moved; checkpoints are of earlier steps. "
        f"Lower train.lr or look at the rows {listed([name for ids in rows for name in ids])}"
    )


def require_finite(network: Any) -> None:
    """Raise RefusedError where a trained parameter is no number: such an adapter must not be saved."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise RefusedError(f"{name} is not a number after training; lower train.lr or look at the rows")


@dataclass
class SpikeWatch:
    """Steps whose loss stands far above those before, by the Hampel identifier.

    A spike lies more than `deviations` robust standard deviations (1.4826 x median absolute deviation; Davies and
    Gather 1993) above the median of the last WINDOW losses.
    """

    WINDOW, LEAST = 64, 16
    deviations: float
    losses: list[float] = field(default_factory=list)

    def update(self, loss: float) -> bool:
        """Whether this step's loss is a spike; it joins the window either way."""
        before, self.losses = self.losses, [*self.losses, loss][-self.WINDOW :]
        if len(before) < self.LEAST:
            return False
        median = statistics.median(before)
        spread = 1.4826 * statistics.median(abs(value - median) for value in before)
        return loss - median > self.deviations * spread > 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"losses": list(self.losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses = list(state["losses"])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def release_memory() -> None:
    """Give back what nothing uses any more; call it outside of an `except`, whose error holds its frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller_micro_batch(train: TrainConfig) -> int:
    """The largest micro-batch of at most half the rows that divides the global batch.

    Raises MachineError at one row.
    """
    if train.micro_batch == 1:
        raise MachineError(
            "out of memory with one row a micro-batch; lower train.max_tokens or train.lora.rank, or set "
            "train.checkpointing=full (`make plan` names the levers)"
        )
    return max(size for size in range(1, train.micro_batch // 2 + 1) if train.global_batch % size == 0)
