from collections import Counter
from fractions import Fraction
from itertools import accumulate

import pytest
from tiny import Letters

from finetune.chat import Renderer
from finetune.config.schema import TrainConfig
from finetune.dataset import deal, encode_rows, encode_validation, step_order, steps
from finetune.errors import RefusedError

LENGTHS = [7 * index % 101 + 1 for index in range(100)]


def row(text: str) -> dict[str, object]:
    return {
        "id": f"id of {len(text)}",
        "group": "g",
        "messages": [{"role": "user", "content": text}],
        "target": "yes",
    }


def test_an_epoch_takes_every_row_once() -> None:
    train = TrainConfig(global_batch=10, micro_batch=10)
    assert sorted(step_order(LENGTHS, train)) == list(range(100))


def test_two_epochs_take_every_row_twice_in_another_order() -> None:
    order = step_order(LENGTHS, TrainConfig(global_batch=10, micro_batch=10, epochs=2))
    assert set(Counter(order).values()) == {2}
    assert order[:100] != order[100:]


def test_the_order_follows_the_seed_and_nothing_else() -> None:
    first, again = (step_order(LENGTHS, TrainConfig(seed=1)) for _ in range(2))
    assert first == again
    assert first != step_order(LENGTHS, TrainConfig(seed=2))


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    short, long = (step_order(LENGTHS, TrainConfig(max_steps=count)) for count in (5, 20))
    assert long[: 5 * 16] == short


def test_rows_of_a_batch_have_similar_length() -> None:
    order = step_order(LENGTHS, TrainConfig(global_batch=10, micro_batch=10))
    padded = sum(
        10 * max(LENGTHS[index] for index in order[start : start + 10]) for start in range(0, 100, 10)
    )
    assert padded / sum(LENGTHS) < 1.15  # 1.8 and more in random order


def padding(order: list[int], batch: int) -> float:
    """Tokens computed over tokens of the rows, in batches of `batch`."""
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    computed = sum(len(rows) * max(LENGTHS[index] for index in rows) for rows in batches)
    return computed / sum(LENGTHS[index] for index in order)


def test_only_the_batch_that_an_epoch_ends_in_is_uneven() -> None:
    # 100 rows are 6 batches of 16 and 4 rows; the rows of 101 different lengths
    order = step_order(LENGTHS, TrainConfig(epochs=4))
    assert padding(order, 16) < 1.3  # 1.44 where the 4 rows may stand anywhere in it
    for start in range(0, 400, 100):
        assert sorted(order[start : start + 100]) == list(range(100))


MIXED = TrainConfig(global_batch=8, micro_batch=4, max_steps=25, mix={"big": 5.0, "mid": 2.0, "small": 1.0})
SETS = ["big"] * 60 + ["mid"] * 30 + ["small"] * 10


def test_every_step_of_a_mix_sees_each_set_in_its_share() -> None:
    order = step_order(LENGTHS, MIXED, SETS)
    assert len(order) == 200
    for start in range(0, 200, 8):
        assert Counter(SETS[index] for index in order[start : start + 8]) == {"big": 5, "mid": 2, "small": 1}


def test_each_set_of_a_mix_runs_through_its_own_epochs() -> None:
    order = step_order(LENGTHS, MIXED, SETS)
    seen = Counter(order)
    assert {seen[index] for index in range(60)} == {2, 3}  # 125 of 60
    assert {seen[index] for index in range(60, 90)} == {1, 2}  # 50 of 30
    assert {seen[index] for index in range(90, 100)} == {2, 3}  # 25 of 10
    assert order == step_order(LENGTHS, MIXED, SETS)


def test_what_a_set_of_a_mix_shows_does_not_depend_on_the_other_sets() -> None:
    fewer = TrainConfig(**{**MIXED.__dict__, "max_steps": 5, "mix": {"big": 5.0, "mid": 3.0}})
    alone = [index for index in step_order(LENGTHS[:90], fewer, SETS[:90]) if SETS[index] == "big"]
    mixed = [index for index in step_order(LENGTHS, MIXED, SETS) if SETS[index] == "big"]
    assert sorted(alone) == sorted(mixed[: len(alone)])


@pytest.mark.parametrize(
    "weights", [[1, 1], [1, 2, 4], [50, 1, 1, 1], [0.3, 0.3, 0.4], [7, 5, 3, 2, 1], [0.1, 0.9]]
)
def test_every_first_places_hold_each_share_to_within_one(weights: list[float]) -> None:
    exact = [Fraction(weight) for weight in weights]
    shares = {str(number): weight / sum(exact) for number, weight in enumerate(exact)}
    dealt = list(deal(shares, 1000))
    for name, share in shares.items():
        for place, count in enumerate(accumulate(own == name for own in dealt), 1):
            assert abs(count - share * place) < 1


def test_a_mix_counts_what_the_steps_see_of_each_set() -> None:
    rows = [{**row("a" * number), "data": "near" if number % 4 else "far"} for number in range(1, 41)]
    train = TrainConfig(global_batch=4, micro_batch=4, max_steps=10, mix={"near": 3.0, "far": 1.0})
    found = encode_rows(rows, Renderer(Letters(), None), train)
    assert found.report is not None
    assert found.report.data == {
        "far": {"rows": 10, "rows_seen": 10, "trained_tokens": 40},
        "near": {"rows": 30, "rows_seen": 30, "trained_tokens": 120},
    }
    assert found.counts["rows_seen_of_near"] == 30
    assert "far: 10 rows in the steps, 1.00 times each of its 10; 40 trained tokens" in "".join(
        found.report.lines()
    )


def test_a_mixed_set_that_loses_all_its_rows_is_refused() -> None:
    rows = [{**row("short"), "data": "near"}, {**row("x" * 300), "data": "far"}]
    train = TrainConfig(max_tokens=100, max_over_length_fraction=0.5, mix={"near": 1.0, "far": 1.0})
    with pytest.raises(RefusedError, match=r"train\.mix\.far: no row of far is left"):
        encode_rows(rows, Renderer(Letters(), None), train)


def test_validation_rows_come_once_each_and_the_longest_first() -> None:
    train = TrainConfig(max_tokens=100, max_over_length_fraction=0.5)
    rows = [row("a"), row("abc"), row("x" * 300), row("ab")]
    found = encode_validation(rows, Renderer(Letters(), None), train)
    assert [found.ids[index] for index in found.order] == ["id of 3", "id of 2", "id of 1"]
    assert (found.counts["trained_tokens"], found.counts["rows_too_long"]) == (3 * 4, 1)
    with pytest.raises(RefusedError, match="1 of 4 validation rows exceed"):
        encode_validation(rows, Renderer(Letters(), None), TrainConfig(max_tokens=100))
    assert encode_validation([], Renderer(Letters(), None), train).rows == []


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [(100, {}, 6), (100, {"epochs": 2.0}, 12), (3, {}, 1), (100, {"max_steps": 40}, 40)],
)
def test_steps(rows: int, settings: dict[str, float], expected: int) -> None:
    assert steps(rows, TrainConfig(**settings)) == expected  # type: ignore[arg-type]


def test_a_row_longer_than_the_budget_is_refused_with_the_way_out() -> None:
    rows = [row("short"), row("x" * 300)]
    train = TrainConfig(max_tokens=100)
    with pytest.raises(
        RefusedError, match=r"1 of 2 rows exceed train\.max_tokens=100 \(longest 3\d\d\)"
    ) as error:
        encode_rows(rows, Renderer(Letters(), None), train)
    assert error.value.exit_code == 3
    assert "xxx" not in str(error.value)


def test_within_the_budget_long_rows_are_counted() -> None:
    train = TrainConfig(max_tokens=100, max_over_length_fraction=0.5, global_batch=1, micro_batch=1)
    found = encode_rows([row("x" * 300), row("short")], Renderer(Letters(), None), train)
    counts = found.counts
    assert (counts["rows"], counts["rows_too_long"], counts["trained_tokens"]) == (1, 1, 4)  # y e s $
    assert [found.ids[index] for index in found.order] == ["id of 5"]


def test_counts_are_of_what_the_steps_see() -> None:
    rows = [row("short")] * 5
    train = TrainConfig(global_batch=2, micro_batch=2, epochs=2)
    counts = encode_rows(rows, Renderer(Letters(), None), train).counts
    assert (counts["steps"], counts["trained_tokens"]) == (5, 10 * 4)  # y e s $ of ten rows
    short = encode_rows(
        rows, Renderer(Letters(), None), TrainConfig(global_batch=2, micro_batch=2, max_steps=1)
    ).counts
    assert (short["rows_never_seen"], short["trained_tokens"]) == (3, 8)
