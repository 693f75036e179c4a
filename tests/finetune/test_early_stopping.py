import json
import math

import pytest

from finetune.config.schema import BestMetric, TrainConfig
from finetune.early_stopping import BestSoFar


def told(best: BestSoFar, values: list[float]) -> list[tuple[bool, bool]]:
    found = [best.update(10 * index, value) for index, value in enumerate(values, 1)]
    return [(judgement.improved, judgement.should_stop) for judgement in found]


def test_the_lowest_loss_is_the_best_and_patience_counts_validations_without_a_gain() -> None:
    best = BestSoFar(BestMetric.validation_loss, patience=2, min_delta=0.0)
    assert told(best, [2.0, 1.0, 1.5, 0.9, 0.9, 1.0]) == [
        (True, False),
        (True, False),
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert (best.value, best.step) == (0.9, 40)


def test_the_highest_share_of_exact_matches_is_the_best() -> None:
    best = BestSoFar(BestMetric.exact_match, patience=None, min_delta=0.0)
    assert told(best, [0.5, 0.4, 0.6]) == [(True, False), (False, False), (True, False)]


def test_a_gain_must_exceed_the_least_one_and_the_best_stays() -> None:
    best = BestSoFar(BestMetric.validation_loss, patience=3, min_delta=0.125)
    assert told(best, [1.0, 0.9375, 0.875, 0.75]) == [
        (True, False),
        (False, False),
        (False, False),
        (True, False),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_never_the_best(value: float) -> None:
    best = BestSoFar(BestMetric.validation_loss, patience=1, min_delta=0.0)
    assert told(best, [value]) == [(False, True)]
    assert best.value is None


def test_a_resumed_run_stops_where_the_whole_one_does() -> None:
    values = [2.0, 1.0, 1.5, 1.2, 1.1]
    whole = BestSoFar.of(TrainConfig(validate_every_steps=1, patience=3))
    first = BestSoFar.of(TrainConfig(validate_every_steps=1, patience=3))
    expected = told(whole, values)
    begun = told(first, values[:3])
    resumed = BestSoFar.of(TrainConfig(validate_every_steps=1, patience=3))
    resumed.restore(json.loads(json.dumps(first.state())))
    assert begun + told(resumed, values[3:]) == expected
    assert expected[-1] == (False, True)
