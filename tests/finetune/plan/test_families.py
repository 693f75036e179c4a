"""Every family of models: a tiny one is quantised, trained, merged and loaded again, and its memory was predicted."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from finetune.adapter_reading import read_adapter
from finetune.architecture import config_of
from finetune.chat import Encoded
from finetune.config.model import BaseConfig, BaseKind, ModelConfig
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, LoraSettings, TrainConfig
from finetune.dataset import TrainingRows
from finetune.merge import write_merged
from finetune.merge_base import Base
from finetune.model import load_plain, quantised_modules
from finetune.plan.settings import AttentionKernel, Settings
from finetune.plan.simulate import simulate
from finetune.trainer import make_trainer
from finetune.trial_run import tracked

ROWS, TOKENS, TRAINED, RANK = 2, 128, 1, 4
CPU = HardwareConfig("cpu", Device.cpu)
MODEL = ModelConfig("tiny", "x", "tiny", BaseConfig(BaseKind.folder, "tiny"))
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 261,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough that the adapter's effect stands above bf16 rounding
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": {**SHAPE, "sliding_window": None},
    "mixtral": {**SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {**SHAPE, "tie_word_embeddings": True},
    "gemma3_text": {
        **SHAPE,
        "head_dim": 64,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
    },
    "falcon": {
        **{key: SHAPE[key] for key in SHAPE if key not in ("intermediate_size", "num_key_value_heads")},
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "ffn_hidden_size": 512,
    },
    "olmo2": SHAPE,
    "cohere": {**SHAPE, "tie_word_embeddings": True},
    "deepseek_v2": {
        **SHAPE,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 32,
    },
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A base folder of the family, and its architecture."""
    from transformers import AutoModelForCausalLM

    facts = {"model_type": request.param, **FAMILIES[request.param]}
    folder = tmp_path / request.param
    tokenizer = tiny.build_tokenizer(folder)
    tokens = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config_of({**facts, **tokens}), dtype=torch.bfloat16)
    network.save_pretrained(folder)
    return folder, facts


def rows() -> TrainingRows:
    """Two steps of rows whose last tokens are trained."""
    ids = [[5 + (7 * row + place) % 200 for place in range(TOKENS)] for row in range(2 * ROWS)]
    encoded = [Encoded(row, [-100] * (TOKENS - TRAINED) + row[-TRAINED:]) for row in ids]
    order = list(range(len(encoded)))
    return TrainingRows(encoded, order, {"steps": 2}, list(map(str, order)))


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(input_ids=torch.tensor([rows().rows[0].ids])).logits.float()


def settings_of(facts: dict[str, Any], train: TrainConfig) -> Settings:
    return Settings(
        facts,
        ROWS,
        TOKENS,
        trained=ROWS * TRAINED,
        rank=RANK,
        checkpointing=train.checkpointing,
        fused=True,
        attention=AttentionKernel.sdpa,
        device=Device.cpu,
    )


def test_a_family_is_quantised_trained_merged_and_loaded_and_its_memory_was_known(
    family: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    base, facts = family
    loaded = tiny.loaded_model(base)
    lora = LoraSettings(rank=RANK)
    train = TrainConfig(
        max_steps=2, global_batch=ROWS, micro_batch=ROWS, lr=1e-2, lora=lora, checkpointing=Checkpointing.none
    )
    trainer = make_trainer(loaded, rows(), train, CPU, tmp_path / "out")
    with tracked(trainer.model) as tracker:
        trainer.train()
    predicted = simulate(settings_of(facts, train)).peak
    assert predicted.categories["activations"] > predicted.total / 3  # the family's own layers decide
    assert predicted.total == pytest.approx(tracker.peak.total, rel=0.02)

    trainer.model.save_pretrained(tmp_path / "adapter")
    quantised = quantised_modules(trainer.model)
    shutil.copytree(base, tmp_path / "merged", ignore=shutil.ignore_patterns("*.safetensors"))
    as_trained = Base(base, frozenset(quantised), double_quantisation=True, device="cpu")
    merged = write_merged(as_trained, read_adapter(tmp_path / "adapter"), tmp_path / "merged")
    assert len(merged.changed) == len(targeted(trainer.model))
    again = load_plain(tmp_path / "merged", MODEL, CPU, torch.bfloat16)
    for module in trainer.model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = True  # outside of autocast
    wanted = logits(trainer.model)
    with trainer.model.disable_adapter():
        effect = (wanted - logits(trainer.model)).norm()
    assert (wanted - logits(again.model)).norm() < 0.3 * effect


def targeted(network: Any) -> list[str]:
    return [name for name, _ in network.named_parameters() if "lora_A" in name]
