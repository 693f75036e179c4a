"""The adapters of each method are simulated as they are trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from finetune.architecture import config_of
from finetune.chat import Encoded
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, LoraSettings, TrainConfig
from finetune.dataset import TrainingRows
from finetune.model import prepare_libraries
from finetune.plan.settings import AttentionKernel, Settings
from finetune.plan.simulate import simulate, simulate_evaluation, simulate_whole
from finetune.trainer import make_trainer
from finetune.trial_run import tracked

ROWS, TOKENS = 2, 128
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 261,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
STEP = Settings(LLAMA, ROWS, TOKENS, rank=4, attention=AttentionKernel.sdpa, device=Device.cpu)
IN, OUT = 128 * 6 + 192, 128 + 64 + 64 + 128 + 192 + 192 + 128
"""Inputs and outputs of a layer's seven linear layers, added up."""


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    prepare_libraries()


def test_adapters_are_held_by_hand() -> None:
    held = {
        name: simulate(replace(STEP, **change)).static["LoRA weights"] // 4
        for name, change in {
            "lora": {},
            "dora": {"dora": True},
            "layers": {"layers": (0, 3)},
            "module": {"rank_pattern": {"q_proj": 8}},
            "one module": {"rank_pattern": {r"layers\.2\.self_attn\.q_proj": 8}},
        }.items()
    }
    plain = 4 * 4 * (IN + OUT)
    assert held == {
        "lora": plain,
        "dora": plain + 4 * OUT,  # a magnitude an output
        "layers": plain // 2,
        "module": plain + 4 * 4 * (128 + 128),
        "one module": plain + 4 * (128 + 128),
    }


@pytest.mark.parametrize("change", [{"dora": True}, {"layers": (1,)}, {"rank_pattern": {"layers.1.*": 8}}])
def test_a_shallow_copy_stands_for_the_whole(change: dict[str, Any]) -> None:
    settings = replace(STEP, architecture={**LLAMA, "num_hidden_layers": 8}, **change)
    assert simulate(settings).peak.categories == simulate_whole(settings).peak.categories


def test_dora_is_simulated_in_evaluation_too() -> None:
    plain, dora = (simulate_evaluation(replace(STEP, dora=dora), 2, 32) for dora in (False, True))
    assert dora > plain


def test_a_cpu_keeps_the_weights_of_a_small_model_dequantised_and_of_a_large_one_none() -> None:
    def kept(**change: Any) -> int:
        settings = replace(STEP, fused=True, **change)
        return simulate(settings).static["dequantised weights"]

    static = simulate(STEP).static
    assert kept() == 4 * static["quantised weights"]  # two bytes a weight instead of half a one
    assert kept(device=Device.cuda) == 0
    wide = {**LLAMA, "hidden_size": 2048, "intermediate_size": 2048}
    weights = 2048 * (
        2048 + 1024 + 1024 + 2048 + 3 * 2048
    )  # of a layer: 48 MiB in bf16, 21 of them below 1 GiB
    for layers, wanted in ((21, 21 * 2 * weights), (22, 0)):
        assert kept(architecture={**wide, "num_hidden_layers": layers}) == wanted


METHODS = {
    "dora": (LoraSettings(rank=4, dora=True), {"dora": True}),
    "dora, dropout": (LoraSettings(rank=4, dora=True, dropout=0.1), {"dora": True, "dropout": True}),
    "last layers": (LoraSettings(rank=4, layers=[2, 3]), {"layers": (2, 3)}),
    "pattern": (LoraSettings(rank=4, rank_pattern={"mlp.*": 64}), {"rank_pattern": {"mlp.*": 64}}),
}


@pytest.mark.parametrize("checkpointing", [Checkpointing.none, Checkpointing.full])
@pytest.mark.parametrize("method", METHODS)
def test_the_memory_of_a_real_step_was_known(
    method: str, checkpointing: Checkpointing, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = tiny.build_tokenizer(tmp_path / "base")
    facts = {**LLAMA, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": 1}
    AutoModelForCausalLM.from_config(config_of(facts), dtype=torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    lora, change = METHODS[method]
    train = TrainConfig(
        max_steps=2, global_batch=ROWS, micro_batch=ROWS, lora=lora, checkpointing=checkpointing
    )
    rows = [Encoded([5 + place % 97 for place in range(TOKENS)], [-100] * (TOKENS - 1) + [5])] * (2 * ROWS)
    data = TrainingRows(
        rows, list(range(len(rows))), {"steps": 2}, [str(index) for index in range(len(rows))]
    )
    trainer = make_trainer(tiny.loaded_model(tmp_path / "base"), data, train, CPU, tmp_path)
    with tracked(trainer.model) as tracker:
        trainer.train()
    settings = replace(STEP, trained=ROWS, checkpointing=checkpointing, fused=True, **change)
    assert simulate(settings).peak.total == pytest.approx(tracker.peak.total, rel=0.02)


CPU = HardwareConfig("cpu", Device.cpu)
