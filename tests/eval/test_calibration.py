"""Calibration by hand, and against scikit-learn where it has the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from eval.metrics.calibration import calibration
from eval.predictions import Prediction
from finetune.errors import DataError


@pytest.fixture
def sure(make: Any) -> Any:
    """Predictions that are right or not, each with a confidence."""

    def build(confidence: Sequence[float | None], right: Sequence[bool]) -> list[Prediction]:
        found: list[Prediction] = make(["x"] * len(right), ["x" if good else "y" for good in right])
        for item, value in zip(found, confidence, strict=True):
            item["confidence"] = value
        return found

    return build


def test_three_bins_by_hand(sure: Any) -> None:
    """30 rows each at 0.2, 0.5 and 0.8 with 6, 24 and 24 right: only the middle one is off, by 0.3."""
    right = [index < 6 for index in range(30)] + [index < 24 for index in range(30)] * 2
    found = calibration(sure([0.2] * 30 + [0.5] * 30 + [0.8] * 30, right))
    assert found is not None
    assert [(item["n"], item["confidence"], item["accuracy"]) for item in found["bins"]] == [
        (30, pytest.approx(0.2), 0.2),
        (30, 0.5, 0.8),
        (30, pytest.approx(0.8), 0.8),
    ]
    assert found["ece"] == pytest.approx(0.1)
    # 0.2 and 0.8: the variance 0.16; in the middle 0.25
    assert found["brier"] == pytest.approx((0.16 + 0.25 + 0.16) / 3)
    assert found["n"] == 90


def test_accuracy_rises_as_less_is_answered(sure: Any) -> None:
    """Of 100 rows the 20 least sure are wrong."""
    found = calibration(sure([index / 100 for index in range(100)], [index >= 20 for index in range(100)]))
    assert found is not None
    assert [(item["coverage"], item["threshold"], item["answered"]) for item in found["selective"]] == [
        (0.8, 0.2, 0.8),
        (0.9, 0.1, 0.9),
        (0.95, 0.05, 0.95),
        (1.0, 0.0, 1.0),
    ]
    assert [item["accuracy"] for item in found["selective"]] == pytest.approx([1, 80 / 90, 80 / 95, 0.8])


def test_equal_confidences_are_never_parted(sure: Any) -> None:
    """200 of 300 rows at 1.0 end in one bin, with the 10 above the third decile's 0.897; rows as sure as the last one
    needed are all answered. The order of rows decides nothing.
    """
    confidence = [1.0] * 200 + [index / 100 for index in range(100)]
    right = [index % 2 == 0 for index in range(300)]
    found = calibration(sure(confidence, right))
    turned = calibration(sure(confidence[::-1], right[::-1]))
    assert found is not None
    assert turned is not None
    assert [item["n"] for item in found["bins"]] == [30, 30, 30, 210]
    assert [item["n"] for item in turned["bins"]] == [item["n"] for item in found["bins"]]
    assert turned["ece"] == pytest.approx(found["ece"], abs=1e-12)
    assert turned["selective"] == found["selective"]
    same = calibration(sure([0.5] * 100, [True] * 100))
    assert same is not None
    assert [item["n"] for item in same["bins"]] == [100]
    assert same["selective"][0] == {"coverage": 0.8, "accuracy": 1.0, "threshold": 0.5, "answered": 1.0}


@pytest.mark.parametrize(("rows", "bins"), [(90, 3), (150, 5), (299, 9), (300, 10), (1000, 10)])
@pytest.mark.parametrize("decimals", [2, 12])
def test_agrees_with_scikit_learn(sure: Any, rows: int, bins: int, decimals: int) -> None:
    source = np.random.default_rng(rows)
    confidence = source.random(rows).round(decimals)
    right = source.random(rows) < confidence**2
    found = calibration(sure(confidence.tolist(), right.tolist()))
    assert found is not None
    assert len(found["bins"]) == bins
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy="quantile")
    assert [item["accuracy"] for item in found["bins"]] == pytest.approx(accuracy.tolist(), abs=1e-9)
    assert [item["confidence"] for item in found["bins"]] == pytest.approx(mean.tolist(), abs=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(right, confidence), abs=1e-9)
    assert sum(item["n"] for item in found["bins"]) == rows


def test_too_few_rows_or_one_without_confidence_have_none(sure: Any) -> None:
    assert calibration(sure([0.5] * 89, [True] * 89)) is None
    assert calibration(sure([0.5] * 99 + [None], [True] * 100)) is None


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_a_confidence_that_is_no_share_is_refused(sure: Any, value: float) -> None:
    with pytest.raises(DataError, match="id row99: the confidence of adapter is no number from 0 to 1"):
        calibration(sure([0.5] * 99 + [value], [True] * 100))
