"""The simulated step, by numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.config.schema import Checkpointing, Optimizer
from finetune.model import prepare_libraries
from finetune.plan.settings import Head, Settings
from finetune.plan.simulate import simulate, simulate_whole

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
}
LINEAR = 256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 512
"""Weights of a layer's seven linear layers."""
LORA = 16 * (2 * (256 + 256) + 2 * (256 + 128) + 3 * (256 + 512))
STEP = Settings(LLAMA, rows=2, tokens=128)


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    prepare_libraries()


def test_weights_are_held_as_bitsandbytes_and_peft_hold_them() -> None:
    held = simulate_whole(STEP).static
    assert held["quantised weights"] == 6 * LINEAR // 2
    tables = (
        16 * 4 + 256 * 4 + 4
    )  # the code tables and the offset that all layers share are not weights' scales
    assert (
        held["quantisation scales"] - tables
        <= 6 * (LINEAR // 64 + 4 * LINEAR // (64 * 256))
        <= held["quantisation scales"] + tables
    )
    assert held["embeddings and head"] == 2 * 1024 * 256 * 2
    assert held["LoRA weights"] == 6 * LORA * 4
    assert held["optimizer"] == 6 * LORA * 8
    assert simulate_whole(STEP).trained == 6 * LORA


def test_single_quantisation_takes_four_bytes_a_block() -> None:
    held = simulate_whole(replace(STEP, double_quantised=False)).static
    assert held["quantisation scales"] == pytest.approx(6 * LINEAR / 64 * 4, abs=1200)


def test_eight_bit_adam_takes_two_bytes_a_weight_and_its_scales() -> None:
    whole = simulate_whole(replace(STEP, optimizer=Optimizer.adamw_8bit)).static["optimizer"]
    assert 6 * LORA * 2 < whole < 6 * LORA * 2 * 1.3 + 6 * 14 * 4096 * 8  # small tensors stay fp32


def test_each_checkpoint_is_the_input_of_a_layer_and_offload_takes_them_away() -> None:
    """One bf16 hidden state a layer: deeper by four layers, four more of them at the peak of the last layer."""

    def kept(layers: int, **changes: Any) -> int:
        settings = replace(STEP, architecture={**LLAMA, "num_hidden_layers": layers}, tokens=1024, **changes)
        return simulate_whole(settings).peaks["backward, last layer"].categories["activations"]

    state = 2 * 1024 * 256 * 2
    assert kept(10) - kept(6) == pytest.approx(4 * state, rel=0.02)
    assert kept(10, offload=True) - kept(6, offload=True) < 0.1 * state


def test_what_is_recomputed_is_not_kept() -> None:
    peaks = [
        simulate_whole(replace(STEP, tokens=1024, checkpointing=mode, checkpoint_every=every)).peak.total
        for mode, every in [
            (Checkpointing.none, 1),
            (Checkpointing.full, 3),
            (Checkpointing.selective, 1),
            (Checkpointing.full, 1),
        ]
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4


def test_the_caller_of_a_loss_function_holds_one_bf16_copy_of_the_logits() -> None:
    def loss(**changes: Any) -> int:
        return simulate_whole(replace(STEP, head=Head.materialised, **changes)).peaks["loss"].total

    assert loss(keeps_logits=True) - loss() == 2 * 128 * 1024 * 2  # rows, tokens, vocabulary, bytes


def test_values_keep_the_whole_product_of_queries_keys_and_values() -> None:
    """Six layers of one key-value head a query: queries and keys beside the values, in bf16."""
    facts = {**LLAMA, "num_key_value_heads": 4}

    def held(**changes: Any) -> int:
        settings = replace(STEP, architecture=facts, checkpointing=Checkpointing.none, **changes)
        return simulate_whole(settings).peaks["loss"].total

    assert held(fused_qkv=True) - held() == 6 * 2 * 128 * 2 * 256 * 2


def test_the_loss_head_scores_the_answer_tokens_of_the_micro_batch_together() -> None:
    def flops(trained: int | None) -> int:
        return simulate_whole(replace(STEP, trained=trained)).work.flops["loss head"]

    assert flops(7) * 254 == flops(None) * 7  # 2 rows of 127 tokens that have a next one


def test_linear_layers_of_a_class_of_their_own_are_quantised_by_transformers_4_alone() -> None:
    facts = {
        key: value for key, value in LLAMA.items() if key not in ("intermediate_size", "num_key_value_heads")
    }
    facts |= {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2}
    own = 256 * 256 * 2 + 256 * 2 * 128 + 2 * 256 * 1024
    held = {
        old: simulate(replace(STEP, architecture=facts, linear_experts=old)).static for old in (True, False)
    }
    assert held[True]["quantised weights"] == 6 * own // 2
    assert "quantised weights" not in held[False]
    assert held[False]["other weights"] - held[True]["other weights"] == 6 * own * 2


def test_packed_rows_attend_to_themselves_alone() -> None:
    apart, packed = (simulate_whole(replace(STEP, packed=packed)) for packed in (False, True))
    for part in ("activations", "working set"):  # of the last token of each row the head scores one more
        assert packed.work.flops[part] == pytest.approx(apart.work.flops[part], rel=0.01)
    assert packed.peak.total == pytest.approx(apart.peak.total, rel=0.01)


@pytest.mark.parametrize(
    ("facts", "changes"),
    [
        (LLAMA | {"num_hidden_layers": 12}, {}),
        (LLAMA | {"num_hidden_layers": 13}, {"checkpoint_every": 2}),
        (LLAMA | {"num_hidden_layers": 12, "model_type": "qwen2"}, {"optimizer": Optimizer.paged_adamw_8bit}),
        (LLAMA | {"num_hidden_layers": 26, "model_type": "gemma3_text", "head_dim": 64}, {}),
        (LLAMA | {"num_hidden_layers": 9, "model_type": "mixtral"}, {}),
    ],
    ids=lambda value: value.get("model_type", "") if isinstance(value, dict) else "",
)
def test_a_shallow_copy_stands_for_the_whole_to_the_byte(
    facts: dict[str, Any], changes: dict[str, Any]
) -> None:
    settings = replace(STEP, architecture=facts, **changes)
    shallow, whole = simulate(settings), simulate_whole(settings)
    assert shallow.peak.categories == whole.peak.categories
    assert shallow.static == whole.static
    assert shallow.work.flops == whole.work.flops
    assert shallow.work.operators == whole.work.operators
    assert max(sample.total for sample in shallow.timeline) == shallow.peak.total
