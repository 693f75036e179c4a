"""What vLLM serves of an adapter by itself."""

from typing import Any

import pytest

from finetune.vllm_adapters import rank_limit, why_unservable

LORA = {"r": 16, "bias": "none"}


@pytest.mark.parametrize(
    ("rank", "limit"), [(1, 1), (2, 8), (16, 16), (24, 32), (257, 320), (512, 512), (513, None)]
)
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(rank: int, limit: int | None) -> None:
    assert rank_limit({"r": rank}) == limit
    assert rank_limit({"r": 1, "rank_pattern": {"q_proj": rank}}) == limit


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"r": 600}, "rank 600 is above the 512"),
        ({"rank_pattern": {"q_proj": 640}}, "rank 640 is above the 512"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [7]}, "added tokens"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_what_vllm_cannot_serve_as_an_adapter_is_named(change: dict[str, Any], told: str) -> None:
    [line] = why_unservable({**LORA, **change})
    assert told in line
    assert list(why_unservable(LORA)) == []
