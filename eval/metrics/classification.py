"""Exact match, macro-F1 and in-vocabulary rate of single-label answers."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from eval import stats
from eval.predictions import Array, Pairs, Prediction
from finetune.chat import Target, render_answer

NO_LABEL = "\x00none"
"""Stands for an answer that does not parse: never a gold label."""


def label(value: Target | None) -> str:
    """The text by which two answers are compared."""
    return NO_LABEL if value is None else render_answer(value)


def exact_match(predictions: Sequence[Prediction]) -> float:
    """Share of rows whose answer equals the gold answer."""
    return float(np.mean([label(item["prediction"]) == label(item["gold"]) for item in predictions]))


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """Mean F1 over the labels that occur as gold in the test set, each label counting the same.

    An answer outside them is a miss for its gold label and lowers no other label's precision.
    """
    from sklearn.metrics import f1_score

    gold = [label(item["gold"]) for item in predictions]
    found = [label(item["prediction"]) for item in predictions]
    return float(f1_score(gold, found, labels=sorted(set(gold)), average="macro", zero_division=0))


def in_vocabulary(predictions: Sequence[Prediction], vocabulary: AbstractSet[str]) -> float:
    """Share of answers that are one of the known labels, right or wrong."""
    return float(np.mean([label(item["prediction"]) in vocabulary for item in predictions]))


def exact_match_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Exact match of `b` minus that of `a`."""
    return stats.mean_difference(_right(pairs.a), _right(pairs.b), pairs.groups)


def macro_f1_difference(pairs: Pairs) -> stats.GroupStatistic:
    """Macro-F1 of `b` minus that of `a`, from every group's confusion counts.

    On a draw of groups it averages over the labels that occur as gold in that draw, as macro_f1 does on the
    test set; counting absent labels as zero would pull every difference towards zero.
    """
    labels = {
        name: index for index, name in enumerate(dict.fromkeys(label(item["gold"]) for item in pairs.a))
    }
    a, b = (_confusion(pairs, arm, labels) for arm in (pairs.a, pairs.b))
    return stats.corpus_difference(a, b, np.bincount(pairs.groups).astype(float), macro_f1_of_counts)


def macro_f1_of_counts(counts: Array) -> Array:
    """[draws, 3 * labels] counts of gold, right and given labels to [draws] macro-F1 over the gold ones."""
    gold, hits, said = np.split(counts, 3, axis=-1)
    present = gold > 0
    f1 = np.where(present, 2 * hits / np.maximum(said + gold, 1), 0.0)
    return np.asarray(f1.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def micro_f1_of_counts(counts: Array) -> Array:
    """[draws, 3 * labels] counts of gold, right and given labels to [draws] micro-F1 over all of them."""
    gold, hits, said = (part.sum(axis=-1) for part in np.split(counts, 3, axis=-1))
    return np.asarray(2 * hits / np.maximum(gold + said, 1))


def _right(predictions: Sequence[Prediction]) -> Array:
    return np.array([float(label(item["prediction"]) == label(item["gold"])) for item in predictions])


def _confusion(pairs: Pairs, arm: Sequence[Prediction], labels: dict[str, int]) -> Array:
    """[groups, 3 * labels]: gold labels, right answers, answers."""
    gold = [label(item["gold"]) for item in arm]
    said = [label(item["prediction"]) for item in arm]
    hits = [name if name == target else NO_LABEL for name, target in zip(said, gold, strict=True)]
    return np.concatenate([_counts(pairs, names, labels) for names in (gold, hits, said)], axis=1)


def _counts(pairs: Pairs, names: Sequence[str], labels: dict[str, int]) -> Array:
    """[groups, labels] counts; names outside the labels are left out."""
    counts = np.zeros((int(pairs.groups.max()) + 1, len(labels)))
    for group, name in zip(pairs.groups, names, strict=True):
        if name in labels:
            counts[group, labels[name]] += 1
    return counts
