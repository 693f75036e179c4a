"""Costs at the user's prices, and the memory and break-even of serving, with figures worked out by hand."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from finetune.config import load
from finetune.config.load import CONF
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError
from finetune.plan.cost import cache_bytes, costs, serving

GIB = 2**30
RECORDS = sorted((CONF / "hardware").glob("*.yaml"), key=lambda path: path.stem)


def run(*settings: str, size: str = "8b") -> RunConfig:
    return load([f"experiment=contracts_llama{size}", *settings])


def architecture(name: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    return dict(found["architecture"])


def test_ten_hours_of_two_gpus_at_the_prices_of_the_user() -> None:
    priced = run("plan.gpus=2", "plan.price_per_gpu_hour=1.5", "plan.price_per_kwh=0.25")
    assert costs(priced, 10) == {"energy_kwh": 8, "cost": {"training": 30, "energy": 2}}


def test_nothing_is_invented_for_what_has_no_price_hours_or_power() -> None:
    nothing = {"training": None, "energy": None}
    assert costs(run(), 10) == {"energy_kwh": 4, "cost": nothing}
    assert costs(run("plan.price_per_gpu_hour=1", "plan.price_per_kwh=1"), None) == {
        "energy_kwh": None,
        "cost": nothing,
    }
    unknown = run("hardware.tdp_w=null", "plan.price_per_gpu_hour=1", "plan.price_per_kwh=1")
    assert costs(unknown, 1) == {"energy_kwh": None, "cost": {"training": 1, "energy": None}}


@pytest.mark.parametrize(
    ("name", "tokens", "bytes_"),
    [
        ("llama31_8b", 1, 2 * 32 * 8 * 128 * 2),  # 131,072: keys and values, layers, heads, width, bf16
        ("llama31_70b", 4096, 4096 * 2 * 80 * 8 * 128 * 2),
        ("falcon_40b", 1, 2 * 60 * 8 * 64 * 2),
        ("deepseek_v25", 1, 60 * (512 + 64) * 2),  # one latent vector and one rotary key
        ("gemma3_27b", 1024, 1024 * 62 * 2 * 16 * 128 * 2),
        ("gemma3_27b", 4096, (10 * 4096 + 52 * 1024) * 2 * 16 * 128 * 2),  # 52 layers see 1,024 tokens
        ("qwen25_7b", 100_000, 100_000 * 2 * 28 * 4 * 128 * 2),  # its window is not used
    ],
)
def test_key_value_cache_of_a_conversation(name: str, tokens: int, bytes_: int) -> None:
    assert cache_bytes(architecture(name), tokens) == bytes_


def test_a_window_without_kinds_of_layers_holds_for_all_of_them() -> None:
    windowed = architecture("mistral_7b") | {"sliding_window": 1024}
    assert cache_bytes(windowed, 4096) == 1024 * 2 * 32 * 8 * 128 * 2


def test_older_falcons_share_one_key_value_head_or_none() -> None:
    shape = {"model_type": "falcon", "num_hidden_layers": 2, "hidden_size": 512, "num_attention_heads": 8}
    shape |= {"vocab_size": 100, "new_decoder_architecture": False}
    assert cache_bytes({**shape, "multi_query": True}, 1) == 2 * 2 * 1 * 64 * 2
    assert cache_bytes({**shape, "multi_query": False}, 1) == 2 * 2 * 8 * 64 * 2


def test_an_8b_on_one_a100() -> None:
    """16.06 GB of weights leave 57.86 GiB of 0.92 x 79.15; a conversation of 4,096 tokens takes 0.5 GiB."""
    found = serving(run(), architecture("llama31_8b"))
    assert found["weights_gib"] == pytest.approx(2 * 8_030_261_248 / GIB)
    assert (found["kv_bytes_per_token"], found["context"]) == (131_072, 4096)
    assert (found["gpus"], found["conversations"]) == (1, 115)
    read = 2 * 8_030_261_248 + 115 * 0.5 * GIB
    assert found["decode_tokens_per_s"] == pytest.approx(115 * 2.039e12 / read)


def test_a_70b_needs_two_a100_and_each_holds_half_of_a_conversation() -> None:
    """141.1 GB are 65.7 GiB a GPU; 7.11 GiB are left for conversations that take 0.625 GiB of each."""
    found = serving(run(size="70b"), architecture("llama31_70b"))
    assert found["weights_gib"] * GIB == pytest.approx(141.1e9, rel=1e-3)
    assert (found["gpus"], found["conversations"]) == (2, 11)


def test_gpus_share_out_the_attention_heads_evenly_but_not_latent_vectors() -> None:
    """DeepSeek-V2.5's 471.5 GB would fit on 7; 128 heads ask for 8, and each holds every conversation whole."""
    found = serving(run(), architecture("deepseek_v25"))
    assert found["gpus"] == 8
    room = 0.92 * 79.15 * GIB - 2 * 235_741_434_880 / 8
    assert found["conversations"] == int(room // (4096 * 69_120))


def test_break_even_is_a_month_of_rent_in_tokens_of_the_api() -> None:
    """730 hours at 2.00 buy 1,460 million tokens at 1.00; the GPU decodes a million for no less than 0.18."""
    priced = ("plan.price_per_gpu_hour=2", "plan.api_price_per_million_tokens=1")
    found = serving(run(*priced), architecture("llama31_8b"))
    assert found["break_even_tokens"] == pytest.approx(1.46e9)
    assert found["cost_per_million_tokens"] == pytest.approx(2 / 3600 / found["decode_tokens_per_s"] * 1e6)
    assert found["cost_per_million_tokens"] == pytest.approx(0.184, rel=0.01)


def test_an_api_cheaper_than_the_gpu_at_its_best_is_never_reached() -> None:
    found = serving(
        run("plan.price_per_gpu_hour=2", "plan.api_price_per_million_tokens=0.1"), architecture("llama31_8b")
    )
    assert found["break_even_tokens"] is None
    unpriced = serving(run("plan.price_per_gpu_hour=2"), architecture("llama31_8b"))
    assert unpriced["break_even_tokens"] is None
    assert unpriced["cost_per_million_tokens"] == found["cost_per_million_tokens"]


def test_a_cpu_is_told_the_weights_and_the_cache_alone() -> None:
    demo = load(["experiment=licences_smollm135m"])
    found = serving(demo, demo.model.architecture)
    assert found["kv_bytes_per_token"] == 2 * 30 * 3 * 64 * 2
    assert found["weights_gib"] == pytest.approx(2 * 134_515_008 / GIB)
    assert {found[key] for key in ("gpus", "conversations", "break_even_tokens")} == {None}


def test_every_hardware_record_loads_and_a_gpu_s_says_what_a_plan_needs() -> None:
    names = "a100_40gb a100_80gb cpu h100_80gb h200_141gb l40s_48gb rtx4090_24gb".split()
    assert [path.stem for path in RECORDS] == names
    for name in names:
        found = run(f"hardware={name}", "train.optimizer=auto").hardware
        rates = (found.memory_gib, found.bf16_tflops, found.bandwidth_gb_s, found.tdp_w)
        assert found.name == name
        assert (None in rates) == (name == "cpu")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("hardware.bf16_tflops=0", "hardware.bf16_tflops=0.0 must be above 0 and finite"),
        ("hardware.memory_gib=-1", "hardware.memory_gib=-1.0 must be above 0 and finite"),
        ("plan.serve_context=0", "plan.serve_context=0 must be above 0"),
        ("plan.gpus=0", "plan.gpus=0 must be above 0"),
        (
            "plan.price_per_kwh=-0.1",
            "plan.price_per_kwh=-0.1 must be 0 or above, or null where it is not known",
        ),
        (
            "hardware.memory_gib=null",
            "hardware.memory_gib is null for a100_80gb; state what its driver reports, or choose another record of "
            "conf/hardware",
        ),
    ],
)
def test_impossible_hardware_and_prices_are_refused(setting: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run(setting)
    assert refused.value.problems == [problem]
