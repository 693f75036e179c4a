"""Settings of the evaluation: the tasks, what decides, how it is measured."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class TaskKind(Enum):
    classification = "classification"


class Metric(Enum):
    exact_match = "exact_match"
    macro_f1 = "macro_f1"


@dataclass
class TaskConfig:
    kind: TaskKind = MISSING
    metric: Metric = Metric.exact_match
    """The primary metric, which the verdict is about."""


@dataclass
class EvalConfig:
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    primary: str = MISSING
    """The task whose metric decides the verdict."""
    min_gain: float = 0.0
    """The least gain over the reference arm that counts as better."""
    resamples: int = 5000
    """Bootstrap draws of whole groups."""
    confidence: float = 0.95
    seed: int = 0
    batch_rows: int = 32
    max_new_tokens: int = 64
    accept_inconclusive: bool = False
