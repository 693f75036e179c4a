"""Each kind of adapter: what is merged is what PEFT merges in fp32, for tiny networks with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from finetune.adapter_reading import read_adapter
from finetune.errors import DataError
from finetune.merge import Merged, write_merged
from finetune.merge_base import Base

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
MOE = {**LLAMA, "intermediate_size": 48, "num_local_experts": 3, "num_experts_per_tok": 2}
GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 40,
    "n_positions": 32,
    "initializer_range": 0.2,
}
EXPERTS = {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": ("llama", LLAMA, {"target_modules": "all-linear"}),
    "rslora": ("llama", LLAMA, {"target_modules": "all-linear", "use_rslora": True}),
    "dora": ("llama", LLAMA, {"target_modules": "all-linear", "use_dora": True}),
    "patterns": (
        "llama",
        LLAMA,
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 8},
            "alpha_pattern": {"v_proj": 4},
        },
    ),
    "lora bias": (
        "qwen2",
        LLAMA,
        {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    ),
    "bias all": ("qwen2", LLAMA, {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "bias lora_only": ("qwen2", LLAMA, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "modules to save": (
        "llama",
        {**LLAMA, "tie_word_embeddings": False},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "head saved, tied": (
        "llama",
        {**LLAMA, "tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "embedding saved, tied": (
        "llama",
        {**LLAMA, "tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ),
    "embedding and head adapted": (
        "llama",
        {**LLAMA, "tie_word_embeddings": False},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    ),
    "tokens": (
        "llama",
        {**LLAMA, "tie_word_embeddings": False},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
    ),
    "tokens, tied": (
        "llama",
        {**LLAMA, "tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
    ),
    "transposed": ("gpt2", GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed, dora": (
        "gpt2",
        GPT2,
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "experts": ("mixtral", MOE, EXPERTS),
    "experts and attention": ("mixtral", MOE, {**EXPERTS, "target_modules": ["q_proj", "v_proj"]}),
    "experts, other rank": ("mixtral", MOE, {**EXPERTS, "rank_pattern": {"experts.down_proj": 2}}),
    "router, renamed": ("mixtral", MOE, {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}),
    "phi, fused layers": (
        "phi3",
        {**LLAMA, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        {"target_modules": "all-linear"},
    ),
}
SEEING = {
    "text_config": {**LLAMA, "head_dim": 8, "sliding_window": 32, "tie_word_embeddings": True},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}
KINDS["layers named otherwise in the files"] = (
    "gemma3",
    SEEING,
    {"target_modules": ["gate_proj", "down_proj"]},
)
IDS = torch.arange(20).reshape(2, 10)


def build(folder: Path, kind: str, facts: dict[str, Any], shard: str = "20KB") -> Any:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **facts), dtype=torch.bfloat16)
    network.save_pretrained(folder, max_shard_size=shard)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapt(network: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """An adapter of which every trainable value is moved, as PEFT saves it."""
    torch.manual_seed(1)
    model = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        return network(input_ids=IDS, use_cache=False).logits


def merge(base: Path, adapter: Path, out: Path) -> Merged:
    out.mkdir()
    merged = write_merged(Base(base, frozenset(), False, "cpu"), read_adapter(adapter), out)
    config = json.loads((base / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **merged.config}))
    return merged


@pytest.mark.parametrize("name", KINDS)
def test_the_merge_of_each_kind_is_pefts_rounded_once(name: str, tmp_path: Path) -> None:
    kind, facts, settings = KINDS[name]
    adapted = adapt(build(tmp_path / "base", kind, facts), tmp_path / "adapter", settings)
    as_trained = logits(adapted)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    # PEFT's own merge changes both ends of a tied pair: there the outputs alone are compared
    expected = {} if "tied" in name else adapted.merge_and_unload().state_dict()
    state = found.state_dict()
    for key, theirs in expected.items():
        rounded = theirs.to(torch.bfloat16).float()
        close = torch.isclose(state[key], rounded, rtol=2**-7, atol=0)
        same = (state[key] == rounded).float().mean()
        assert close.all(), key
        assert same > 0.999, key  # an order of sums may tip a rounding
    difference = (logits(found.eval()) - as_trained).abs().max()
    assert difference < 0.05 * as_trained.abs().max()


def test_more_tokens_than_the_base_has(tmp_path: Path) -> None:
    network = build(tmp_path / "base", "llama", {**LLAMA, "tie_word_embeddings": False})
    network.resize_token_embeddings(48, mean_resizing=False)
    network.config.name_or_path = network.name_or_path = str(tmp_path / "base")
    adapted = adapt(
        network,
        tmp_path / "adapter",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    )
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert merged.config == {"vocab_size": 48}
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert found.get_input_embeddings().weight.shape == (48, 32)
    expected = adapted.merge_and_unload().state_dict()
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(found.state_dict()[key], expected[key].to(torch.bfloat16).float())


def test_a_tied_base_gets_a_head_of_its_own_where_the_two_differ(tmp_path: Path) -> None:
    facts = {**LLAMA, "tie_word_embeddings": True}
    adapt(build(tmp_path / "base", "llama", facts), tmp_path / "adapter", KINDS["embedding saved, tied"][2])
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert merged.config == {"tie_word_embeddings": False}
    written = weights(tmp_path / "out")
    assert torch.equal(written["lm_head.weight"], weights(tmp_path / "base")["model.embed_tokens.weight"])
    assert not torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_what_the_adapter_does_not_name_keeps_its_bytes(tmp_path: Path) -> None:
    adapt(build(tmp_path / "base", "llama", LLAMA), tmp_path / "adapter", {"target_modules": ["q_proj"]})
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    before, after = weights(tmp_path / "base"), weights(tmp_path / "out")
    names = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)}
    assert set(merged.changed) == names
    assert {name for name in before if not torch.equal(before[name], after[name])} == names


Break = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            lambda found: {**found, "base_model.model.x.vera_lambda": torch.ones(2)},
            "not in the base, first x.vera",
        ),
        (
            lambda found: {
                name: torch.ones(3, 3) if "lora_A" in name else value for name, value in found.items()
            },
            "factors of rank 3",
        ),
        (
            lambda found: {name: value[:-1] if "lora_B" in name else value for name, value in found.items()},
            "but the adapter's delta",
        ),
        (lambda found: {name: value * float("nan") for name, value in found.items()}, "is not finite"),
        (lambda found: {name: value * 1e20 for name, value in found.items()}, "is not finite"),
        (lambda found: {name: value * 0 for name, value in found.items()}, "0 of 2 adapted modules differ"),
    ],
)
def test_what_cannot_be_merged_is_one_line(broken: Break, told: str, tmp_path: Path) -> None:
    adapt(build(tmp_path / "base", "llama", LLAMA), tmp_path / "adapter", {"target_modules": ["q_proj"]})
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file({name: value.contiguous() for name, value in broken(load_file(path)).items()}, path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()}
    with pytest.raises(DataError, match=told) as error:
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()}


def test_an_adapter_on_a_quantised_model_is_merged_like_pefts_on_the_dequantised_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    build(base, "llama", LLAMA)
    names = frozenset(
        f"model.layers.{layer}.{part}"
        for layer in range(2)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    )
    dequantised = Base(base, names, True, "cpu")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.load_state_dict({name: tensor.float() for name, tensor in dequantised.tensors()}, strict=False)
    adapt(plain, tmp_path / "adapter", {"target_modules": ["q_proj", "up_proj"], "use_dora": True})
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    fresh.load_state_dict({name: tensor.float() for name, tensor in dequantised.tensors()}, strict=False)
    expected = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().state_dict()
    (tmp_path / "out").mkdir()
    write_merged(dequantised, read_adapter(tmp_path / "adapter"), tmp_path / "out")
    for name, tensor in weights(tmp_path / "out").items():
        same = tensor == expected[name].to(torch.bfloat16)
        assert same.float().mean() > 0.999, name
