"""F1, recall and exact match of labels, from how often each group has, gives and hits every label."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.measure import ArmStatistic, Formula, Measure, Scope, divided, mean, ratio
from eval.predictions import Array, Indices, Prediction

MICRO = "all labels pooled: every label given counts, those that never occur as gold too"
MACRO = "over the labels that occur as gold in the test set, each counting the same; the F1 of others is not averaged"
BALANCED = "recall over the labels that occur as gold in the test set, each counting the same"
EXACT = "over all rows: those whose answer is the gold answer, whole"
PRECISION_AT_8 = "over all rows: hits among the first 8 labels given, by 8, however few the row has"
IN_VOCABULARY = "over all labels given, right or wrong: those known from the training rows or data.labels"
TOP = 8


@dataclass(frozen=True)
class Labelled:
    """Of one row: the gold labels, those given, and those of them that are hits, each as often as it counts."""

    gold: Sequence[str]
    said: Sequence[str]
    hits: Sequence[str]


Read = Callable[[Prediction], Labelled]


def sets(gold: Iterable[str], said: Iterable[str]) -> Labelled:
    """A row whose labels count once each, in the order of their first appearance."""
    wanted, given = list(dict.fromkeys(gold)), list(dict.fromkeys(said))
    known = set(wanted)
    return Labelled(wanted, given, [label for label in given if label in known])


def exact_match(read: Read) -> Measure:
    """Share of rows that give every gold label and no other."""
    return Measure(EXACT, lambda rows, scope: mean(rights(rows, read), scope.groups))


def rights(rows: Sequence[Prediction], read: Read) -> Array:
    """1 for each row whose labels are the gold ones, else 0. An answer that does not parse is wrong."""
    return np.array([float(row["prediction"] is not None and _is_exact(read(row))) for row in rows])


def micro_f1(read: Read, averages: str = MICRO) -> Measure:
    """2 hits / (given + gold), over all rows together."""

    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic:
        found = [read(row) for row in rows]
        hits = np.array([len(row.hits) for row in found], dtype=float)
        sizes = np.array([len(row.said) + len(row.gold) for row in found], dtype=float)
        return ratio(2 * hits, sizes, scope.groups)

    return Measure(averages, statistic)


def macro_f1(read: Read, averages: str = MACRO) -> Measure:
    """The mean F1 of labels.

    On a draw of groups it averages over the labels that occur as gold in that draw, as on the test set itself;
    counting absent labels as zero would pull every difference towards zero.
    """
    return Measure(averages, _over_labels(read, macro_f1_of_counts))


def balanced_accuracy(read: Read) -> Measure:
    """The mean recall of labels."""
    return Measure(BALANCED, _over_labels(read, balanced_of_counts))


def in_vocabulary(read: Read) -> Measure:
    """Share of the labels given that are known ones; an answer that does not parse is one unknown label."""

    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic:
        said = [read(row).said if row["prediction"] is not None else [None] for row in rows]
        known = np.array([sum(label in scope.vocabulary for label in labels) for labels in said], dtype=float)
        return ratio(known, np.array([len(labels) for labels in said], dtype=float), scope.groups)

    return Measure(IN_VOCABULARY, statistic)


def parse_rate(averages: str = "over all rows: answers that have the form of a gold answer") -> Measure:
    """Share of answers that parse, right or wrong."""
    return Measure(
        averages,
        lambda rows, scope: mean(
            np.array([float(row["prediction"] is not None) for row in rows]), scope.groups
        ),
    )


def precision_at_8(read: Read, ranked: bool, name: Callable[[str], str] = str) -> Measure:
    """Hits among the 8 labels that an answer ranks first; None where nothing ranks them.

    `name` writes a scored label as `read` does.
    """

    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic | None:
        found = [_first(row, read, ranked, name) for row in rows]
        if any(labels is None for labels in found):
            return None
        hits = [len(set(labels or ()) & set(read(row).gold)) for labels, row in zip(found, rows, strict=True)]
        return mean(np.array(hits, dtype=float) / TOP, scope.groups)

    return Measure(PRECISION_AT_8, statistic)


def _first(row: Prediction, read: Read, ranked: bool, name: Callable[[str], str]) -> Sequence[str] | None:
    """The first 8 labels of a row by confidence, else as they are listed where that is a ranking."""
    said, scores = read(row).said, row["label_scores"]
    if scores is not None:
        # labels of equal confidence stay as they were listed
        ordered = sorted(scores, key=lambda label: -scores[label])
        return list(dict.fromkeys(map(name, ordered)))[:TOP]
    return said[:TOP] if ranked or len(said) <= 1 else None


def _is_exact(row: Labelled) -> bool:
    return len(row.hits) == len(row.said) == len(row.gold)


def _over_labels(read: Read, formula: Formula) -> Callable[[Sequence[Prediction], Scope], ArmStatistic]:
    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic:
        found = [read(row) for row in rows]
        labels = {label: index for index, label in enumerate(dict.fromkeys(_each(row.gold for row in found)))}
        parts = [
            _matrix([getattr(row, part) for row in found], labels, scope.groups)
            for part in ("gold", "hits", "said")
        ]
        from scipy import sparse

        return ArmStatistic(sparse.hstack(parts, format="csr"), formula)

    return statistic


def _each(groups: Iterable[Sequence[str]]) -> Iterable[str]:
    return (label for labels in groups for label in labels)


def _matrix(rows: Sequence[Sequence[str]], labels: Mapping[str, int], groups: Indices) -> object:
    """Sparse [groups, labels]; labels that never occur as gold are left out."""
    from scipy import sparse

    counts = Counter(
        (int(group), labels[label])
        for group, found in zip(groups, rows, strict=True)
        for label in found
        if label in labels
    )
    places = np.array(list(counts), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(counts.values()), dtype=float)
    shape = (int(groups.max()) + 1, len(labels))
    return sparse.csr_array((values, (places[:, 0], places[:, 1])), shape=shape)


def macro_f1_of_counts(sums: Array) -> Array:
    """[draws, 3 * labels] counts of gold, right and given labels to [draws] macro-F1 over the gold ones."""
    gold, hits, said = np.split(sums, 3, axis=1)
    return _mean_present(2 * hits / np.maximum(said + gold, 1), gold)


def balanced_of_counts(sums: Array) -> Array:
    """[draws, 3 * labels] counts of gold, right and given labels to [draws] mean recall of the gold ones."""
    gold, hits, _ = np.split(sums, 3, axis=1)
    return _mean_present(hits / np.maximum(gold, 1), gold)


def _mean_present(values: Array, gold: Array) -> Array:
    present = gold > 0
    return divided(np.where(present, values, 0.0).sum(axis=1), present.sum(axis=1))
