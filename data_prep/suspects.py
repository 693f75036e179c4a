"""Rows whose label looks wrong: where a classifier that has not seen the row is sure of another label.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068) on out-of-fold probabilities.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 20_000
MAX_LABELS = 300
"""The classifier's time and memory grow with the labels; the most frequent ones are judged."""
FOLDS = 5
READ_CHARS = 2_000
FEATURES = 50_000
LEAST_STEPS = 50_000
SHARPNESS = 3.0
"""Scores are pulled towards zero by the regularisation. On CLINC150, CUAD's clauses and licence notices the
probabilities fit best at 2; at 4 more planted flips pass the rule."""

Probabilities = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row whose label may be wrong, and what the classifier expects instead."""

    position: int
    given_probability: float
    predicted: str
    predicted_probability: float


@dataclass(frozen=True)
class Suspects:
    """What was found, most suspicious first, and among how many rows it was looked for."""

    judged: int = 0
    """Rows left out: a label in one group only, beyond MAX_LABELS labels, or not in the sample of MAX_ROWS."""
    ranked: list[Suspect] = field(default_factory=list)


def suspects(texts: Sequence[str], labels: Sequence[str], groups: Sequence[str | int], seed: int) -> Suspects:
    """The rows whose label the other groups' rows contradict; the same for a seed on any number of threads.

    Rows of one group never vote for each other. Reads the first READ_CHARS characters of a text.
    """
    chosen = _sample(labels, groups, seed)
    names = sorted({labels[position] for position in chosen})
    if len(names) < 2:
        return Suspects()
    code_of = {name: code for code, name in enumerate(names)}
    given = np.array([code_of[labels[position]] for position in chosen])
    folds = _folds([groups[position] for position in chosen], seed)
    features = _features([texts[position][:READ_CHARS] for position in chosen], len(names))
    probabilities = _out_of_fold(features, given, folds, seed)
    judged = probabilities[np.arange(len(given)), given] > 0
    found = _contradicted(probabilities, given, judged)
    return Suspects(int(judged.sum()), [_suspect(row, chosen, names, given, probabilities) for row in found])


def _sample(labels: Sequence[str], groups: Sequence[str | int], seed: int) -> list[int]:
    """Positions of the rows to judge: a label that stands in one group has no other rows to learn it from."""
    spread = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    ranked = sorted((-count, label) for label, count in spread.items() if count > 1)
    usable = {label for _, label in ranked[:MAX_LABELS]}
    positions = [position for position, label in enumerate(labels) if label in usable]
    if len(positions) <= MAX_ROWS:
        return positions
    drawn = np.random.default_rng(seed).choice(len(positions), MAX_ROWS, replace=False)
    return [positions[index] for index in np.sort(drawn).tolist()]


def _folds(groups: Sequence[str | int], seed: int) -> Codes:
    """A fold for every row, by group."""
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    fold_of = np.random.default_rng(seed).permutation(len(order)) % FOLDS
    return np.array([fold_of[order[group]] for group in groups])


def _features(texts: Sequence[str], labels: int) -> Any:
    """TF-IDF of words, marks and neighbouring pairs of them, as a sparse matrix."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    limit = min(FEATURES, 10_000_000 // labels)
    pattern = r"\w+|[^\w\s]+"  # marks count, so that no filled text is without a feature
    make = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=limit, token_pattern=pattern)
    return make.fit_transform(texts)


def _out_of_fold(features: Any, given: Codes, folds: Codes, seed: int) -> Probabilities:
    """Each row's probabilities from a classifier trained on the other folds; 0 for a label it has not seen."""
    from sklearn.linear_model import SGDClassifier

    found = np.zeros((len(given), int(given.max()) + 1))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(np.unique(given[train])) < 2:
            continue
        # averaged loss: a penalty that shrinks with the rows weighs the same beside any number of them
        model = SGDClassifier(
            loss="log_loss",
            alpha=0.3 / len(train),
            max_iter=max(3, math.ceil(LEAST_STEPS / len(train))),
            tol=None,
            random_state=seed,
        )
        scores = model.fit(features[train], given[train]).decision_function(features[test])
        both = scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
        found[np.ix_(test, model.classes_)] = _softmax(SHARPNESS * both)
    return found


def _softmax(scores: Probabilities) -> Probabilities:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    # never 0, which stands for a label that was not there to learn
    shares: Probabilities = np.maximum(powers / powers.sum(axis=1, keepdims=True), 1e-300)
    return shares


def _contradicted(probabilities: Probabilities, given: Codes, judged: NDArray[np.bool_]) -> list[int]:
    """Rows below their label's average confidence while another label is above its own, worst first."""
    own = probabilities[np.arange(len(given)), given]
    count = np.bincount(given[judged], minlength=probabilities.shape[1])
    total = np.bincount(given[judged], own[judged], minlength=probabilities.shape[1])
    threshold = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    above = probabilities >= threshold
    above[np.arange(len(given)), given] = False
    rows = np.flatnonzero(judged & (own < threshold[given]) & above.any(axis=1))
    ranked: list[int] = rows[np.argsort(own[rows], kind="stable")].tolist()
    return ranked


def _suspect(
    row: int, chosen: Sequence[int], names: Sequence[str], given: Codes, probabilities: Probabilities
) -> Suspect:
    others = probabilities[row].copy()
    others[given[row]] = -1.0
    best = int(others.argmax())
    own = float(probabilities[row, given[row]])
    return Suspect(chosen[row], round(own, 4), names[best], round(float(others[best]), 4))
