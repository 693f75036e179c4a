"""The formulas of CUAD's evaluate.py as reference/eval_data.md and the script state them, one threshold at a time.

Written apart from eval/metrics/cuad.py: plain sets and loops over questions, scikit-learn's area.
"""

import math
from functools import cache

import numpy as np
from sklearn.metrics import auc

Gold = dict[str, list[str]]
NBest = dict[str, list[tuple[str, float]]]


def tokens(text: str) -> set[str]:
    for mark in ".,;:":
        text = text.replace(mark, "")
    return set(text.lower().replace("/", " ").split())


@cache
def same(name: str, answer: str, given: str) -> bool:
    left, right = tokens(answer), tokens(given)
    return len(left & right) / len(left | right) >= 0.5 or ("Parties" in name and answer in given)


def point(gold: Gold, nbest: NBest, threshold: float, category: str | None) -> tuple[float, float]:
    """Precision and recall of the quotes above one threshold."""
    right = wrong = missed = 0
    for name, answers in gold.items():
        if category is not None and category not in name:
            continue
        last = {text: score for text, score in nbest[name] if text}
        given = [text for text in last if last[text] > threshold]
        for answer in answers:
            if any(same(name, answer, text) for text in given):
                right += 1
            else:
                missed += 1
        wrong += sum(not any(same(name, answer, text) for answer in answers) for text in given)
    precision = right / (right + wrong) if right + wrong else math.nan
    recall = right / (right + missed) if right + missed else math.nan
    return precision, recall


def scores(gold: Gold, nbest: NBest, category: str | None = None) -> tuple[float, float, float]:
    """AUPR, precision at 80 % and at 90 % recall."""
    thresholds = [*np.arange(0.99, 0, -0.01), 0.001, 0]
    points = [(1, 0), *(point(gold, nbest, threshold, category) for threshold in thresholds)]
    precisions, recalls = [item[0] for item in points], [item[1] for item in points]
    for index in reversed(range(len(precisions) - 1)):
        precisions[index] = max(
            precisions[index + 1], precisions[index]
        )  # in this order: with NaN it matters
    area = float(auc(recalls, precisions))
    # the list of thresholds that the script walks beside them is one shorter, so the last point is never seen
    seen = list(zip(precisions, recalls, thresholds, strict=False))
    at = [next((precision for precision, recall, _ in seen if recall >= least), 0) for least in (0.8, 0.9)]
    return 0.0 if math.isnan(area) else area, float(at[0]), float(at[1])
