from collections import Counter

import pytest
from tiny import Letters

from finetune.chat import Renderer
from finetune.config.schema import TrainConfig
from finetune.dataset import encode_rows, step_order, steps
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
