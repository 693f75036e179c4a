"""Several p-values read together, and several training seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """How far training seeds lie apart: this is no part of an interval over rows."""

    count: int
    mean: float
    standard_deviation: float


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that stay valid when all of them are read together (Holm 1979), in the given order."""
    count, highest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=lambda item: p_values[item])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values whose threshold bounds the share of false finds among the finds, in the given order."""
    if not p_values:
        return []
    return [float(item) for item in stats.false_discovery_control(p_values, method="bh")]


def seed_spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation (n - 1) of one number over training seeds, at least two."""
    found = np.asarray(values, dtype=float)
    return Spread(len(found), float(found.mean()), float(found.std(ddof=1)))
