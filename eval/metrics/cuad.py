"""CUAD's official scores (TheAtticusProject/cuad, evaluate.py), to the bit and with what is odd in them.

Odd, and kept: a passage is found by any quote that is alike, so one quote may find several and several quotes one; a
gold passage that stands in a quote of "Parties" is found whatever else the quote holds, and the question's whole name
is searched for that word; of equal quotes the last one's confidence counts; precision may only rise as recall falls; a
threshold where nothing is given takes the precision of the next; the lowest threshold is left out where precision is
looked up by recall; an area that is no number is 0. Where the script would divide by zero, two texts of nothing but
punctuation, they are not alike here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from eval.predictions import Array, Indices

THRESHOLD = 0.5
"""Jaccard similarity from which two passages are the same."""
SUBSTRING_LABEL = "Parties"
LEVELS = np.concatenate([np.arange(0.99, 0, -0.01), [0.001, 0.0]])
"""Confidences above which a quote counts, one after the other."""


@dataclass(frozen=True)
class Question:
    """One label of one contract: its name, `contract__label`, its gold passages, and each quote's confidence."""

    name: str
    gold: Sequence[str]
    quotes: dict[str, float]


@lru_cache(maxsize=100_000)
def words(passage: str) -> frozenset[str]:
    """The distinct words, lower-case, without `.,;:`, cut at white space and slashes."""
    return frozenset(passage.translate(REMOVED).lower().replace("/", " ").split())


REMOVED = str.maketrans("", "", ".,;:")


def jaccard(gold: str, quote: str) -> float:
    """Shared words by all words of two passages; 0 where neither has any."""
    wanted, given = words(gold), words(quote)
    union = len(wanted | given)
    return len(wanted & given) / union if union else 0.0


def counts(questions: Sequence[Question], groups: Indices) -> Array:
    """[groups, 1 + 2 levels]: gold passages, passages found at each level, quotes that match none at each level."""
    levels = len(LEVELS)
    found = np.zeros((int(groups.max()) + 1, 1 + 2 * (levels + 1)))
    for question, group in zip(questions, groups, strict=True):
        hits, misses = _levels(question)
        found[group, 0] += len(question.gold)
        np.add.at(found[group], 1 + hits, 1)
        np.add.at(found[group], 2 + levels + misses, 1)
    # the last column of each holds what no level counts
    parts = found[:, 1 : 1 + levels], found[:, 2 + levels : -1]
    return np.concatenate([found[:, :1], *(part.cumsum(axis=1) for part in parts)], axis=1)


def _levels(question: Question) -> tuple[Indices, Indices]:
    """The first level at which each passage is found and each quote without a passage is given."""
    quotes = [quote for quote in question.quotes if quote]
    sure = np.array([question.quotes[quote] for quote in quotes])
    contains = SUBSTRING_LABEL in question.name
    alike = np.array(
        [
            [jaccard(passage, quote) >= THRESHOLD or (contains and passage in quote) for quote in quotes]
            for passage in question.gold
        ],
        dtype=bool,
    ).reshape(len(question.gold), len(quotes))
    best = np.where(alike, sure, -np.inf).max(axis=1, initial=-np.inf)
    return _first(best), _first(sure[~alike.any(axis=0)])


def _first(confidences: Array) -> Indices:
    """The first level below each confidence; the number of levels where there is none."""
    return np.searchsorted(-LEVELS, -confidences, side="right").astype(np.int64)


def aupr(sums: Array) -> Array:
    """The area under precision and recall, by trapezoids."""
    precision, recall = _curve(sums)
    area = np.trapezoid(precision, recall, axis=1)
    return np.where(np.isnan(area), 0.0, area)


def _precision_at(least: float, sums: Array) -> Array:
    precision, recall = _curve(sums)
    enough = recall[:, :-1] >= least
    first = enough.argmax(axis=1)
    found: Array = np.where(enough.any(axis=1), precision[np.arange(len(first)), first], 0.0)
    return found


precision_at_80_recall = partial(_precision_at, 0.8)
precision_at_90_recall = partial(_precision_at, 0.9)


def _curve(sums: Array) -> tuple[Array, Array]:
    """Precision, raised to the best of any lower level, and recall: [draws, 1 + levels], from recall 0 on."""
    gold = sums[:, :1]
    hits, misses = np.split(sums[:, 1:], 2, axis=1)
    with np.errstate(invalid="ignore"):
        precision, recall = hits / (hits + misses), hits / gold
    start = np.ones_like(gold)
    precision, recall = np.hstack([start, precision]), np.hstack([0 * start, recall])
    for level in range(precision.shape[1] - 2, -1, -1):
        # not np.maximum: of a number and no number the script keeps the one of the lower level
        after, here = precision[:, level + 1], precision[:, level]
        precision[:, level] = np.where(here > after, here, after)
    return precision, recall
