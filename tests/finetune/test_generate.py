from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import loaded_model

from finetune.chat import IGNORE
from finetune.generate import answer_logits, by_length, greedy

TEXTS = ["a", "a longer question", "mid size", "the longest question of all of them"]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> Any:
    """In fp32, where padding changes nothing but the order of sums."""
    loaded = loaded_model(tiny_model_folder, quantised=False)
    loaded.model.float()
    return loaded


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_batched_answers_equal_single_ones_in_the_order_asked(model: Any) -> None:
    prompts = [model.renderer.prompt_ids(messages(text)) for text in TEXTS]
    batched = greedy(model, prompts, 4, 8, "test")
    single = [greedy(model, [prompt], 1, 8, "test")[0] for prompt in prompts]
    assert [answer.ids for answer in batched] == [answer.ids for answer in single]
    assert all(0 < (answer.confidence or 0) <= 1 for answer in batched)
    assert len({answer.ids for answer in batched}) > 1


def test_answer_logits_are_those_of_a_plain_forward_at_the_positions_before_the_answer(model: Any) -> None:
    rows = [model.renderer.row(messages(text), f"answer {len(text)}") for text in TEXTS]
    found = dict(answer_logits(model, rows, 3, "test"))
    assert sorted(found) == [0, 1, 2, 3]
    for index, row in enumerate(rows):
        with torch.no_grad():
            whole = model.model(input_ids=torch.tensor([row.ids])).logits[0]
        places = [place - 1 for place, label in enumerate(row.labels) if label != IGNORE]
        torch.testing.assert_close(found[index], whole[places], atol=1e-4, rtol=0)


def test_batches_are_of_similar_length_and_lose_no_row() -> None:
    batches = by_length([3, 9, 1, 7, 5], 2)
    assert batches == [[1, 3], [4, 0], [2]]


def test_batches_keep_both_limits_and_a_long_row_stands_alone() -> None:
    assert by_length([2, 9, 3, 3, 1], batch_rows=8, batch_tokens=6) == [[1], [2, 3], [0, 4]]
    assert by_length([2, 2, 2, 1], batch_rows=3, batch_tokens=6) == [[0, 1, 2], [3]]
