"""Exact match and F1 of short answers, as SQuAD's official script compares them (Rajpurkar et al. 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.metrics.classification import label
from eval.metrics.measure import ArmStatistic, Measure, Scope, mean
from eval.predictions import Prediction

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Lower case, without ASCII punctuation, articles and spare white space, in this order."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def is_exact(gold: str, answer: str) -> bool:
    """Whether the two are equal once normalised."""
    return normalised(gold) == normalised(answer)


def f1(gold: str, answer: str) -> float:
    """F1 of the two answers' words, each as often as it stands there; of an empty one, whether both are."""
    wanted, given = normalised(gold).split(), normalised(answer).split()
    if not wanted or not given:
        return float(wanted == given)
    same = (Counter(wanted) & Counter(given)).total()
    return 2 * same / (len(wanted) + len(given))


def measures() -> Mapping[str, Measure]:
    """Every metric by its name."""
    return {
        "exact_match": Measure("over all rows: equal once normalised as SQuAD does", _mean(is_exact)),
        "f1": Measure("over all rows: each row's F1 of words, normalised as SQuAD does", _mean(f1)),
    }


def _mean(score: Callable[[str, str], float]) -> Callable[[Sequence[Prediction], Scope], ArmStatistic]:
    def statistic(rows: Sequence[Prediction], scope: Scope) -> ArmStatistic:
        return mean(np.array([_score(row, score) for row in rows]), scope.groups)

    return statistic


def _score(row: Prediction, score: Callable[[str, str], float]) -> float:
    return 0.0 if row["prediction"] is None else float(score(label(row["gold"]), label(row["prediction"])))
