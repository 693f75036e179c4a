"""Metrics of quoted passages, strictly: each gold passage is found once, and each spare quote is an error.

A question is one label asked about one document; its gold passages and its quotes are those of all windows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics import cuad, label_counts
from eval.metrics.label_counts import Labelled
from eval.metrics.measure import ArmStatistic, Measure, Scope, divided, mean, value
from eval.metrics.multi_label import labels
from eval.predictions import Array, Prediction
from finetune.errors import DataError

RECALL = 0.8
MICRO = "all passages of all labels pooled; a quote that matches none counts against it"
MACRO = "over the labels that have a passage in the test set, each counting the same"
RANKED = "all quotes of all labels in one ranking by confidence, each distinct confidence a threshold"
OFFICIAL = "all questions pooled, as CUAD's evaluate.py does, its quirks included (docs/tasks.md)"


def measures() -> Mapping[str, Measure]:
    """Every metric by its name."""
    return {
        "exact_match": Measure(
            "over all questions, a label of a document each: every passage found and no spare quote",
            lambda rows, scope: mean(rights(rows), scope.groups),
        ),
        "micro_f1": label_counts.micro_f1(matched, MICRO),
        "macro_f1": label_counts.macro_f1(matched, MACRO),
        "aupr": Measure(RANKED, _ranked(average_precision)),
        "precision_at_80_recall": Measure(RANKED, _ranked(precision_at_recall)),
        "cuad_aupr": Measure(OFFICIAL, _official(cuad.aupr)),
        "cuad_precision_at_80_recall": Measure(OFFICIAL, _official(cuad.precision_at_80_recall)),
        "cuad_precision_at_90_recall": Measure(OFFICIAL, _official(cuad.precision_at_90_recall)),
        "parse_rate": label_counts.parse_rate(
            "over all questions: those of which every window's answer parses"
        ),
    }


def by_label(rows: Sequence[Prediction]) -> dict[str, dict[str, float | None]]:
    """The metrics of each label's questions alone; the official ones of all questions whose name holds the label."""
    found = {}
    for label in sorted({row.get("question") or "" for row in rows}):
        own = [row for row in rows if (row.get("question") or "") == label]
        holding = [row for row in rows if label in _name(row)]
        found[label] = {
            name: value(item, holding if name.startswith("cuad_") else own, frozenset())
            for name, item in measures().items()
            if name != "macro_f1"  # of one label: micro_f1
        }
    return found


def rights(rows: Sequence[Prediction]) -> Array:
    """1 for each question whose quotes match its passages one to one, else 0."""
    return label_counts.rights(rows, matched)


def matched(row: Prediction) -> Labelled:
    """The question's label: once for each gold passage, for each quote, and for each pair of them that match.

    Pairs are taken in the order of their similarity, so that each passage and each quote has one partner at most.
    """
    gold, quotes = labels(row["gold"]), labels(row["prediction"])
    similar = sorted(
        (-cuad.jaccard(passage, quote), place, number)
        for place, passage in enumerate(gold)
        for number, quote in enumerate(quotes)
    )
    passages: set[int] = set()
    used: set[int] = set()
    for distance, place, number in similar:
        if -distance >= cuad.THRESHOLD and place not in passages and number not in used:
            passages.add(place)
            used.add(number)
    name = row.get("question") or ""
    return Labelled([name] * len(gold), [name] * len(quotes), [name] * len(used))


def confidences(row: Prediction) -> dict[str, float] | None:
    """Each quote's confidence, or the answer's for all of them; None where there is none.

    Raises DataError where one is no number: it would sort anywhere.
    """
    quotes, scores = labels(row["prediction"]), row["label_scores"]
    if scores is None:
        if row["confidence"] is None and quotes:
            return None
        scores = {quote: float(row["confidence"] or 0.0) for quote in quotes}
    if not all(math.isfinite(score) for score in scores.values()):
        raise DataError(f"id {row['id']} has a confidence that is no number in arm {row['arm']}")
    return scores


@dataclass(frozen=True)
class Found:
    """A quote: how sure the arm is of it, whether it is the first to find a passage, and its question's group."""

    confidence: float
    is_hit: bool
    group: int


def average_precision(gold: Array, hits: Array, misses: Array) -> Array:
    """The area under precision and recall in steps, as scikit-learn's average precision, of all gold passages.

    `gold` [draws]; `hits` and `misses` [draws, levels], the quotes at each confidence, highest first.
    """
    found, given = hits.cumsum(axis=1), (hits + misses).cumsum(axis=1)
    return divided((hits * divided(found, given)).sum(axis=1), gold)


def precision_at_recall(gold: Array, hits: Array, misses: Array) -> Array:
    """The best precision at any threshold that finds 80 % of the passages; 0 where none does."""
    found, given = hits.cumsum(axis=1), (hits + misses).cumsum(axis=1)
    enough = (found >= RECALL * gold[:, None]) & (gold[:, None] > 0)
    best: Array = np.where(enough, divided(found, given), 0.0).max(axis=1, initial=0.0)
    return best


def _ranked(
    formula: Callable[[Array, Array, Array], Array],
) -> Callable[[Sequence[Prediction], Scope], ArmStatistic | None]:
    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic | None:
        scored = [confidences(row) for row in rows]
        beside = [confidences(row) for row in scope.beside]
        if None in scored:
            return None
        sure = {score for scores in (*scored, *beside) for score in (scores or {}).values()}
        levels = np.array(sorted(sure, reverse=True))
        quotes = [
            quote
            for row, scores, group in zip(rows, scored, scope.groups, strict=True)
            for quote in _quotes(row, scores or {}, int(group))
        ]
        counts = np.zeros((int(scope.groups.max()) + 1, 1 + 2 * len(levels)))
        np.add.at(counts[:, 0], scope.groups, [len(labels(row["gold"])) for row in rows])
        place = {level: index for index, level in enumerate(levels.tolist())}
        for quote in quotes:
            counts[quote.group, 1 + place[quote.confidence] + (0 if quote.is_hit else len(levels))] += 1
        return ArmStatistic(counts, lambda sums: formula(sums[:, 0], *np.split(sums[:, 1:], 2, axis=1)))

    return statistic


def _quotes(row: Prediction, scores: Mapping[str, float], group: int) -> list[Found]:
    """The question's quotes, the surest first: each takes the passage most like it that is still free."""
    free, found = labels(row["gold"]), []
    for quote in sorted(scores, key=lambda quote: -scores[quote]):
        best = max(free, key=lambda passage: cuad.jaccard(passage, quote), default=None)
        is_hit = best is not None and cuad.jaccard(best, quote) >= cuad.THRESHOLD
        if best is not None and is_hit:
            free.remove(best)
        found.append(Found(scores[quote], is_hit, group))
    return found


def _official(
    formula: Callable[[Array], Array],
) -> Callable[[Sequence[Prediction], Scope], ArmStatistic | None]:
    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic | None:
        scored = [confidences(row) for row in rows]
        if None in scored:
            return None
        questions = [
            cuad.Question(_name(row), labels(row["gold"]), scores or {})
            for row, scores in zip(rows, scored, strict=True)
        ]
        return ArmStatistic(cuad.counts(questions, scope.groups), formula)

    return statistic


def _name(row: Prediction) -> str:
    """The question as CUAD names it: `contract__label`."""
    return f"{row['document'] or row['id']}__{row.get('question') or ''}"
