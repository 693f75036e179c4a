"""Each method of `train.lora`: it trains, and what is merged is what was trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune.adapter_reading import read_adapter
from finetune.adapter_weights import AdapterWeights
from finetune.agreement import Agreement, agreement
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, LoraSettings, TrainConfig
from finetune.dataset import encode_rows
from finetune.dora import use_exact_dora
from finetune.errors import ConfigError, DataError
from finetune.lora_factors import Factors
from finetune.merge import merged_tensors, write_merged
from finetune.merge_base import Base
from finetune.methods import lora_config, require_targets
from finetune.model import quantised_modules
from finetune.trainer import make_trainer

CPU = HardwareConfig("cpu", Device.cpu)
ROWS = [
    {
        "id": str(index),
        "group": "g",
        "messages": [{"role": "user", "content": f"row {index}"}],
        "target": f"answer {index % 3}",
    }
    for index in range(8)
]
PATTERNS = LoraSettings(
    rank=4,
    rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 8},
    alpha_pattern={"v_proj": 4, "mlp.*": 64},
)
METHODS = {
    "lora": LoraSettings(rank=4),
    "rslora": LoraSettings(rank=4, rslora=True),
    "dora": LoraSettings(rank=4, dora=True),
    "dora, dropout": LoraSettings(rank=4, dora=True, dropout=0.1),
    "patterns": PATTERNS,
    "one layer": LoraSettings(rank=4, layers=[1]),
    "targets": LoraSettings(rank=4, targets=["q_proj", "down_proj"]),
    "all of it": replace(
        PATTERNS, rslora=True, dora=True, layers=[1], targets=["q_proj", "v_proj", "down_proj"]
    ),
}


IDS = torch.randint(5, 200, (4, 32), generator=torch.Generator().manual_seed(0))


def untrained(folder: Path, out: Path, lora: LoraSettings, quantised: bool = True) -> Any:
    """The trainer of two steps before the first."""
    train = TrainConfig(
        max_steps=2,
        global_batch=4,
        micro_batch=4,
        lr=1e-2,
        warmup_fraction=0,
        checkpointing=Checkpointing.none,
        lora=lora,
    )
    loaded = tiny.loaded_model(folder, quantised)
    return make_trainer(loaded, encode_rows(ROWS, loaded.renderer, train), train, CPU, out)


def trained(folder: Path, out: Path, lora: LoraSettings, quantised: bool = True) -> Any:
    """The trainer after two steps."""
    trainer = untrained(folder, out, lora, quantised)
    before = {name: value.detach().clone() for name, value in trainable(trainer.model).items()}
    trainer.train()
    after = trainable(trainer.model)
    assert all(value.dtype is torch.float32 for value in after.values())
    assert all(not torch.equal(before[name], after[name]) for name in after)
    return trainer


def trainable(network: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def fp32(folder: Path, base: Base) -> Any:
    """The base as training saw it, in fp32."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain.load_state_dict({name: tensor.float() for name, tensor in base.tensors()})
    return plain.eval()


def logits(network: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(input_ids=ids).logits.flatten(0, 1)


def compared(trainer: Any, folder: Path, out: Path) -> tuple[Agreement, Agreement]:
    """Merged weights against PEFT's own adapter, and the base against it, both in fp32."""
    trainer.model.save_pretrained(out / "adapter")
    base = Base(folder, frozenset(quantised_modules(trainer.model)), True, "cpu")
    plain = fp32(folder, base)
    without = logits(plain, IDS)
    adapted = logits(PeftModel.from_pretrained(plain, out / "adapter").eval(), IDS)
    merged = fp32(folder, base)
    merged.load_state_dict(dict(merged_tensors(base.tensors(), read_adapter(out / "adapter"))), strict=True)
    return agreement(adapted, logits(merged, IDS)), agreement(adapted, without)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_in_fp32_and_its_merge_is_the_adapter(
    method: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = trained(tiny_model_folder, tmp_path, METHODS[method])
    same, effect = compared(trainer, tiny_model_folder, tmp_path)
    assert effect.kl > 1e-2
    assert same.kl < 1e-9
    assert same.top1 == 1.0


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_bf16_base_is_trained_and_merged_without_quantisation(
    method: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = trained(tiny_model_folder, tmp_path, METHODS[method], quantised=False)
    assert quantised_modules(trainer.model) == []
    same, effect = compared(trainer, tiny_model_folder, tmp_path)
    assert effect.kl > 1e-2
    assert same.kl < 1e-9


def test_each_layer_gets_the_rank_and_the_scaling_of_its_pattern(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trained(tiny_model_folder, tmp_path, PATTERNS).model.save_pretrained(tmp_path / "adapter")
    found = read_adapter(tmp_path / "adapter").factors
    attention, mlp = "model.layers.1.self_attn", "model.layers.1.mlp"
    layers = [f"{attention}.q_proj", f"{attention}.v_proj", f"{attention}.o_proj", f"{mlp}.down_proj"]
    # alpha / rank: 32 / 2, 4 / 4, 32 / 4, 64 / 8
    assert [(len(found[name].down), found[name].scaling) for name in layers] == [
        (2, 16),
        (4, 1),
        (4, 8),
        (8, 8),
    ]


def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trained(tiny_model_folder, tmp_path, METHODS["rslora"]).model.save_pretrained(tmp_path / "adapter")
    assert {layer.scaling for layer in read_adapter(tmp_path / "adapter").factors.values()} == {
        16.0
    }  # 32 / sqrt(4)


def test_only_the_chosen_layers_are_adapted(tiny_model_folder: Path, tmp_path: Path) -> None:
    names = trainable(trained(tiny_model_folder, tmp_path, METHODS["one layer"]).model)
    assert len(names) == 14  # A and B of the seven linear layers of one layer
    assert all("layers.1." in name for name in names)


def test_dora_by_hand() -> None:
    # W + 1 * B A = [[1, 0], [0, 2]] + [[2, 4], [0, 0]] = [[3, 4], [0, 2]]: rows of length 5 and 2 become 10 and 1
    factors = Factors(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0], [0.0]]), 1.0, magnitude=torch.tensor([10.0, 1.0])
    )
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.bfloat16)
    assert factors.merged(weight).tolist() == [[6.0, 8.0], [0.0, 1.0]]


@pytest.mark.parametrize("quantised", [True, False])
def test_an_untrained_dora_is_the_base_exactly(
    quantised: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = untrained(tiny_model_folder, tmp_path, METHODS["dora"], quantised)
    trainer.model.save_pretrained(tmp_path)
    base = Base(tiny_model_folder, frozenset(quantised_modules(trainer.model)), True, "cpu")
    merged = dict(merged_tensors(base.tensors(), read_adapter(tmp_path)))
    assert all(torch.equal(merged[name].to(tensor), tensor) for name, tensor in base.tensors())


def test_exact_dora_is_pefts_in_fp32(tiny_model_folder: Path) -> None:
    """Outputs and gradients, dropout's copy of the base output included; evaluation keeps no stale lengths."""
    found = []
    for exact in (False, True):
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
        network = get_peft_model(plain, lora_config(METHODS["dora, dropout"], plain))
        if exact:
            use_exact_dora(network)
        for value in trainable(network).values():
            value.data += 0.05 * torch.randn(value.shape)
        loss = network.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        evaluated = [logits(network.eval(), IDS)]
        with torch.no_grad():
            for value in trainable(network).values():
                value.mul_(1.1)
        evaluated.append(logits(network, IDS))
        found.append([loss.detach(), *evaluated, *(value.grad for value in trainable(network).values())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_tied_embeddings_are_never_touched(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "merged"
    tiny.build_model(base, tied=True)
    out.mkdir()
    trainer = trained(base, tmp_path, METHODS["dora"])
    trainer.model.save_pretrained(tmp_path / "adapter")
    as_trained = Base(base, frozenset(quantised_modules(trainer.model)), True, "cpu")
    write_merged(as_trained, read_adapter(tmp_path / "adapter"), out)
    original, merged = (load_file(folder / "model.safetensors") for folder in (base, out))
    assert merged.keys() == original.keys()
    assert "lm_head.weight" not in merged
    changed = {name for name in original if not torch.equal(original[name], merged[name])}
    assert len(changed) == 14
    assert all(name.endswith("_proj.weight") for name in changed)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": ["q_proj", "foo"]}, "train.lora.targets: the model has no layer foo"),
        (
            {"targets": ["q_proj", "lm_head"]},
            "train.lora.targets: lm_head is no linear layer below the output head",
        ),
        ({"targets": ["q_proj", "embed_tokens"]}, "train.lora.targets: embed_tokens is no linear layer"),
        ({"layers": [1, 2]}, "train.lora.layers: the model has no layer 2; they are 0 to 1"),
        ({"rank_pattern": {"qproj": 2}}, "train.lora.rank_pattern: qproj matches no adapted layer"),
        ({"alpha_pattern": {"layers.7": 2}}, "train.lora.alpha_pattern: layers.7 matches no adapted layer"),
        (
            {"rank_pattern": {"q_proj": 2}, "targets": ["v_proj"]},
            "rank_pattern: q_proj matches no adapted layer",
        ),
        ({"rank": 65}, "train.lora.rank=65 exceeds the 64 of layer"),
        ({"rank_pattern": {"k_proj": 33}}, "train.lora.rank_pattern=33 exceeds the 32 of layer"),
    ],
)
def test_what_the_model_cannot_have_is_refused_by_name(
    changes: dict[str, Any], told: str, tiny_model_folder: Path
) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with pytest.raises(ConfigError) as error:
        require_targets(network, LoraSettings(**changes))
    assert any(told in line for line in error.value.problems)
    assert len({line.split(":")[0].split("=")[0] for line in error.value.problems}) == 1
    require_targets(network, LoraSettings(rank=32))


def saved(out: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    out.mkdir(exist_ok=True)
    known = {"peft_type": "LORA", "bias": "none", "r": 2, "lora_alpha": 4, "init_lora_weights": True}
    (out / "adapter_config.json").write_text(json.dumps({**known, **config}))
    save_file(tensors, out / "adapter_model.safetensors")
    return out


A, B = torch.ones(2, 3), torch.ones(4, 2)
PAIR = {"base_model.model.x.lora_A.weight": A, "base_model.model.x.lora_B.weight": B}


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        ({"use_dora": True}, PAIR, "A and B factors and magnitudes do not pair up, first x"),
        ({}, {**PAIR, "base_model.model.x.lora_magnitude_vector": torch.ones(4)}, "do not pair up, first x"),
        ({}, {"base_model.model.x.lora_A.weight": A}, "A and B factors do not pair up, first x"),
        ({}, {}, "do not pair up, no tensor at all"),
        (
            {},
            {**PAIR, "base_model.model.e.lora_embedding_A": A.clone()},
            "do not pair up, first e",
        ),
        ({"rank_pattern": {"x": 3}}, PAIR, "x has factors of rank 2 and 2, but adapter_config.json says 3"),
        ({"lora_bias": True}, PAIR, "A and B factors do not pair up, first x"),
        (
            {"ensure_weight_tying": True},
            PAIR,
            "the adapter uses ensure_weight_tying, which this merge does not know",
        ),
        ({"bias": "some"}, PAIR, "the adapter uses bias, which this merge does not know"),
        ({}, {**PAIR, "base_model.model.x.lora_C.weight": A.clone()}, "lora_C.weight is not a LoRA factor"),
        ({"init_lora_weights": "pissa"}, PAIR, "the adapter uses init_lora_weights"),
        ({"something_new": {"a": 1}}, PAIR, "the adapter uses something_new"),
        ({"peft_type": "LOHA"}, PAIR, "the adapter uses peft_type"),
    ],
)
def test_what_a_merge_would_lose_or_mistake_is_refused(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told) as error:
        read_adapter(saved(tmp_path / "adapter", config, tensors))
    assert "\n" not in str(error.value)
    assert read_adapter(saved(tmp_path / "good", {}, PAIR)).factors["x"].scaling == 2


def test_a_damaged_adapter_is_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path, {}, PAIR)
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(DataError, match="adapter_model.safetensors cannot be read"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match="adapter_config.json cannot be read"):
        read_adapter(folder)


def test_a_row_without_length_stops_the_merge() -> None:
    factors = Factors(torch.zeros(1, 2), torch.zeros(2, 1), 1.0, magnitude=torch.ones(2))
    with pytest.raises(DataError, match="not finite after the merge"):
        AdapterWeights({"x": factors}).merged("x", torch.zeros(2, 2))
