"""Packed rows are what they are alone, on real models of 2 layers; a family that mixes them is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import loaded_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, TrainConfig
from finetune.dataset import TrainingRows, encode_rows
from finetune.errors import ConfigError
from finetune.packing import leak, require_isolated_rows
from finetune.trainer import make_trainer

CPU = HardwareConfig("cpu", Device.cpu)
PACKED = TrainConfig(
    max_steps=1,
    global_batch=4,
    micro_batch=4,
    lr=1e-2,
    log_every_steps=1,
    checkpointing=Checkpointing.none,
    packing=True,
)
ROWS = [
    {
        "id": f"r{number}",
        "group": "g",
        "messages": [{"role": "user", "content": "word " * (1 + 5 * number)}],
        "target": "yes" * (1 + number),
    }
    for number in range(4)
]


def prepared(folder: Path, out: Path, train: TrainConfig, attention: str) -> tuple[Any, TrainingRows]:
    """The trainer on an fp32 model without dropout, and its rows."""
    loaded = loaded_model(folder, quantised=False)
    loaded.model.float()
    loaded.model.set_attn_implementation(attention)
    data = encode_rows(ROWS, loaded.renderer, train)
    trainer = make_trainer(loaded, data, train, CPU, out)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # starts at zero, and would leave lora_A without a gradient
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return trainer, data


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_of_packed_rows_are_those_of_each_row_alone(
    attention: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer, data = prepared(tiny_model_folder, tmp_path, PACKED, attention)
    (batch,) = trainer.get_train_dataloader()
    assert batch["input_ids"].shape[0] == 1
    assert "attention_mask" not in batch
    model, place = trainer.model.eval(), 0
    with torch.no_grad():
        packed = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits[0]
        for index in data.order:
            ids = data.rows[index].ids
            alone = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            torch.testing.assert_close(packed[place : place + len(ids)], alone, atol=1e-5, rtol=0)
            place += len(ids)
    assert place == batch["input_ids"].shape[1]


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    """Of one step's loss, computed in fp32 as the trainer computes it over its micro-batches."""
    batches = list(trainer.get_train_dataloader())
    items = sum((batch["labels"] != -100).sum() for batch in batches)
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_gradient_of_a_packed_batch_is_that_of_its_rows_alone(
    attention: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    packed = gradients(prepared(tiny_model_folder, tmp_path, PACKED, attention)[0])
    single = replace(PACKED, packing=False, micro_batch=1)
    alone = gradients(prepared(tiny_model_folder, tmp_path, single, attention)[0])
    assert packed.keys() == alone.keys()
    assert len(packed) == 28  # A and B of 7 layers in 2 blocks
    for name, gradient in alone.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(packed[name], gradient, atol=1e-6, rtol=1e-4)


def small(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        **more,
    }


WINDOWED = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, Any] = {
    "mistral, window shorter than a row": lambda: MistralForCausalLM(
        MistralConfig(**small(sliding_window=4))
    ),
    "gemma 3, window in every other layer": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**small(head_dim=8, sliding_window=4, layer_types=WINDOWED))
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**small(num_local_experts=4))),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sliding_windows_and_experts_keep_packed_rows_apart(family: str, attention: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    model.set_attn_implementation(attention)
    assert leak(model) < 1e-5
    require_isolated_rows(model)


STATES: dict[str, Any] = {
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3)
    ),
    "lfm2, short convolutions": lambda: Lfm2ForCausalLM(
        Lfm2Config(**small(layer_types=["conv", "full_attention"]))
    ),
}


@pytest.mark.parametrize("family", STATES)
def test_a_family_whose_states_run_on_is_refused(family: str) -> None:
    torch.manual_seed(0)
    model = STATES[family]().eval()
    with pytest.raises(ConfigError, match=r"packed rows see the rows before them; set train\.packing=false"):
        require_isolated_rows(model)


def test_the_trainer_refuses_to_pack_where_rows_would_mix(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a backend without masks from positions does: every row sees the ones before it
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="LlamaForCausalLM with attention sdpa packed rows see"):
        prepared(tiny_model_folder, tmp_path, PACKED, "sdpa")
    prepared(tiny_model_folder, tmp_path, replace(PACKED, packing=False), "sdpa")
