"""Whether an arm is right as often as it is sure: ECE, Brier, reliability bins, accuracy at a coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.predictions import Array, Prediction
from finetune.errors import DataError

MAX_BINS = 10
ROWS_PER_BIN = 30
"""300 rows for ten bins, as HELM's ece_10_bin asks for; fewer rows, fewer bins."""
MIN_ROWS = 90
"""Below three bins of such a size nothing is said."""
COVERAGES = (0.8, 0.9, 0.95, 1.0)

Calibration = dict[str, Any]
"""`ece`, `brier`, `n`, `bins` and `selective` as report.json holds them."""


def calibration(predictions: Sequence[Prediction]) -> Calibration | None:
    """Calibration of one arm's confidence in its whole answer being right.

    None where an answer carries no confidence, or there are fewer than 90 of them. Raises DataError with the row's
    id where a confidence is no share between 0 and 1.
    """
    if len(predictions) < MIN_ROWS:
        return None
    stated = [item["confidence"] for item in predictions]
    known = [value for value in stated if value is not None]
    if len(known) < len(stated):
        return None
    for item, value in zip(predictions, known, strict=True):
        if not 0 <= value <= 1:  # NaN neither
            raise DataError(f"id {item['id']}: the confidence of {item['arm']} is no number from 0 to 1")
    confidence, right = np.array(known), np.array([item["score"] for item in predictions])
    bins = reliability(confidence, right)
    return {
        "ece": sum(item["n"] * abs(item["accuracy"] - item["confidence"]) for item in bins) / len(known),
        "brier": float(((confidence - right) ** 2).mean()),
        "n": len(known),
        "bins": bins,
        "selective": [selective(confidence, right, coverage) for coverage in COVERAGES],
    }


def reliability(confidence: Array, right: Array) -> list[dict[str, float]]:
    """Bins of about equal mass, least sure first: their ends, mean confidence, share right, rows.

    The ends are quantiles and a value belongs to the bin that it ends (scikit-learn's strategy `quantile`), so equal
    confidences are never parted and the order of the rows decides nothing. Bins that ties leave empty are left out.
    """
    count = max(1, min(MAX_BINS, len(confidence) // ROWS_PER_BIN))
    edges = np.quantile(confidence, np.linspace(0, 1, count + 1))
    places = np.searchsorted(edges[1:-1], confidence)
    members = [(index, places == index) for index in range(count)]
    return [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "confidence": float(confidence[chosen].mean()),
            "accuracy": float(right[chosen].mean()),
            "n": int(chosen.sum()),
        }
        for index, chosen in members
        if chosen.any()
    ]


def selective(confidence: Array, right: Array, coverage: float) -> dict[str, float]:
    """Share right among the surest rows, of which at least `coverage` of all are answered.

    Rows as sure as the last one needed are answered too: `answered` is the share that really is.
    """
    needed = max(1, int(np.ceil(coverage * len(confidence) - 1e-9)))
    threshold = float(np.sort(confidence)[-needed])
    kept = confidence >= threshold
    return {
        "coverage": coverage,
        "accuracy": float(right[kept].mean()),
        "threshold": threshold,
        "answered": float(kept.mean()),
    }
