"""Two arms' answers by group, drawn at random: the populations on which check_stats.py counts errors.

A population holds confusion counts of whole groups and is resampled group by group, never row by row. Both arms share
each group's difficulty and each row's; they differ by a luck of their own in each group and by `gain`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

PRIOR = np.array([0.35, 0.25, 0.15, 0.12, 0.08, 0.05])
"""Of six labels; each group has its own mix around it."""
LABELS = len(PRIOR)
MIX = 6.0
"""Dirichlet concentration: a group of ten rows holds about three labels."""
EASE = np.linspace(0.6, -0.6, LABELS)
"""Logits by which frequent labels are easier."""


@dataclass(frozen=True)
class Design:
    """Sizes of the groups of a test set, and how far luck changes from group to group."""

    sizes: NDArray[np.int64]
    luck: float = 0.7
    """Standard deviation, in logits, of a group's difference between the arms."""
    skewed: bool = False
    """Luck is exponential: most groups lose a little by the change, a few gain much."""


@dataclass(frozen=True)
class Population:
    """[groups, choices, 3 * labels] counts of gold, right and given labels for each arm, by the group's size."""

    a: Array
    b: Array

    def expected(self, metric: Callable[[Array], Array]) -> float:
        """The metric's true difference: on the mean counts of all that may be drawn."""
        a, b = (arm.mean(axis=1).sum(axis=0)[None] for arm in (self.a, self.b))
        return float((metric(b) - metric(a))[0])

    def draw(self, count: int, source: np.random.Generator) -> tuple[Array, Array]:
        """`count` test sets: two arrays [count, groups, 3 * labels]."""
        groups, choices = self.a.shape[:2]
        chosen = source.integers(0, choices, size=(count, groups))
        return self.a[np.arange(groups), chosen], self.b[np.arange(groups), chosen]


def equal(groups: int, rows: int = 10) -> NDArray[np.int64]:
    """Every group has as many rows."""
    return np.full(groups, rows)


def uneven(groups: int) -> NDArray[np.int64]:
    """From 1 row to 50, evenly on a logarithmic scale."""
    return np.round(np.geomspace(1, 50, groups)).astype(np.int64)


def populate(design: Design, gain: float, choices: int, seed: int) -> Population:
    """Groups of a design where `b` is better by `gain` logits.

    Without gain or skew every group stands there twice, with its arms exchanged: no metric whatever can then differ
    in truth.
    """
    source = np.random.default_rng(seed)
    by_size = {size: _groups(int(size), design, gain, choices, source) for size in np.unique(design.sizes)}
    a, b = (np.stack([by_size[size][arm] for size in design.sizes]) for arm in (0, 1))
    if gain == 0 and not design.skewed:
        a, b = np.concatenate([a, b], axis=1), np.concatenate([b, a], axis=1)
    return Population(a, b)


def _groups(
    size: int, design: Design, gain: float, count: int, source: np.random.Generator
) -> tuple[Array, Array]:
    mix = source.dirichlet(PRIOR * MIX, count).cumsum(axis=1)
    gold = (source.random((count, size, 1)) > mix[:, None, :]).sum(axis=2).clip(max=LABELS - 1)
    ease = source.normal(0, 1, (count, 1)) + source.normal(0, 1, (count, size)) + EASE[gold]
    luck = source.exponential(1, (count, 1)) - 1 if design.skewed else source.normal(0, 1, (count, 1))
    return _counts(gold, ease, source), _counts(gold, ease + gain + design.luck * luck, source)


def _counts(gold: NDArray[np.int64], ease: Array, source: np.random.Generator) -> Array:
    """[groups, 3 * labels]: an answer is right with the logistic of its ease, else one of the other labels."""
    other = (gold + source.integers(1, LABELS, gold.shape)) % LABELS
    said = np.where(source.random(gold.shape) < special.expit(ease), gold, other)
    found = [
        np.stack([(values == name).sum(axis=1) for name in range(LABELS)], axis=1)
        for values in (gold, np.where(said == gold, gold, -1), said)
    ]
    return np.concatenate(found, axis=1).astype(float)
