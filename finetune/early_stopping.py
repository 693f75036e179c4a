"""Which validation was the best, and when to stop looking for a better one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config.schema import BestMetric, TrainConfig

LOWER_IS_BETTER = (BestMetric.validation_loss,)


@dataclass(frozen=True)
class Judgement:
    """Of one validation: whether it is the best so far, and whether patience has run out."""

    improved: bool
    should_stop: bool


@dataclass
class BestSoFar:
    """The best validation of a run; lives in its checkpoints, so that a resumed run stops where the whole one would."""

    metric: BestMetric
    patience: int | None
    """Validations in a row without a gain after which to stop. None: never."""
    min_delta: float
    """What is better by no more than this is no gain."""
    value: float | None = None
    step: int | None = None
    without_gain: int = 0

    @classmethod
    def of(cls, train: TrainConfig) -> "BestSoFar":
        """Before the first validation."""
        return cls(train.best_metric, train.patience, train.min_delta)

    def update(self, step: int, value: float) -> Judgement:
        """Take in the validation after `step`; one that is no finite number is never a gain."""
        improved = math.isfinite(value) and self._gain(value) > self.min_delta
        if improved:
            self.value, self.step, self.without_gain = value, step, 0
        else:
            self.without_gain += 1
        return Judgement(improved, self.exhausted)

    def _gain(self, value: float) -> float:
        if self.value is None:
            return math.inf
        return self.value - value if self.metric in LOWER_IS_BETTER else value - self.value

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.without_gain >= self.patience

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"value": self.value, "step": self.step, "without_gain": self.without_gain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.value, self.step, self.without_gain = state["value"], state["step"], state["without_gain"]
