from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tiny import loaded_model
from transformers import AutoConfig, AutoModelForCausalLM

from finetune.chat import IGNORE, Encoded
from finetune.config.plan import Device, HardwareConfig
from finetune.dataset import TrainingRows
from finetune.expected import expected_of
from finetune.flops import Flops, needed_flops, pairs

# the 2-layer Llama of tests/tiny.py: hidden 64, MLP 128, 4 heads of 16, 2 of them for keys and values, 261 tokens
LINEAR = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
ADAPTER = 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))


def with_lora(network: Any, rank: int = 16) -> Any:
    return get_peft_model(network, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("quantised", [True, False])
def test_four_flops_a_frozen_weight_and_six_a_trained_one(tiny_model_folder: Path, quantised: bool) -> None:
    found = needed_flops(with_lora(loaded_model(tiny_model_folder, quantised).model))
    assert (LINEAR, ADAPTER) == (73728, 32768)
    assert found.per_token == 4 * LINEAR + 6 * ADAPTER == 491520
    assert found.per_trained_token == 4 * 261 * 64 == 66816
    # scores and values, 2 FLOPs a number of 4 heads of 16, three times, in 2 layers
    assert found.per_pair == {None: 2 * 3 * 2 * 4 * 32}


def test_a_row_costs_its_tokens_its_answer_and_its_pairs() -> None:
    flops = Flops(per_token=10, per_trained_token=100, per_pair={None: 1, 2: 7})
    # 4 tokens: 10 causal pairs; within a window of 2: 1 + 2 + 2 + 2
    assert (pairs(4, None), pairs(4, 2), pairs(4, 9)) == (10, 7, 10)
    assert flops.row(4, 3) == 10 * 4 + 100 * 3 + 10 + 7 * 7


def test_of_experts_only_those_that_a_token_passes_through() -> None:
    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=50,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        parameter.requires_grad = False
    # attention, and of two experts gate, up and down
    weights = 4 * 32 * 32 + 2 * 3 * 32 * 64
    assert needed_flops(network).per_token == 4 * weights


def test_windows_of_gemma_are_seen() -> None:
    config = AutoConfig.for_model(
        "gemma3_text",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=50,
        sliding_window=8,
    )
    a_layer = 3 * 2 * 2 * (16 + 16)
    assert needed_flops(AutoModelForCausalLM.from_config(config)).per_pair == {8: 5 * a_layer, None: a_layer}


def test_the_sums_after_each_step() -> None:
    rows = [Encoded([1] * length, [IGNORE] * (length - 1) + [1]) for length in (2, 3, 4)]
    data = TrainingRows(rows, [0, 1, 2, 0], {}, ["a", "b", "c"])
    plan = {"peak_allocated_gib": 40.0, "device_gib": {"total": 42.0}}
    gpu = HardwareConfig("a100_80gb", Device.cuda, bf16_tflops=312.0)
    found = expected_of(data, 2, Flops(10, 1), gpu, plan)
    assert (found.steps, found.tokens, found.trained_tokens) == (2, [0, 5, 11], [0, 2, 4])
    assert (found.flops, found.peak_gib, found.bf16_tflops) == ([0, 52, 114], 40.0, 312.0)
    assert expected_of(data, 2, Flops(10, 1), HardwareConfig("cpu", Device.cpu), plan).peak_gib == 42.0
