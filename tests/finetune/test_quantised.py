"""What must hold with real bitsandbytes layers: gradients, dequantisation, the merge."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune.adapter_reading import read_adapter
from finetune.adapter_weights import AdapterWeights
from finetune.config.model import BaseConfig, BaseKind, ModelConfig
from finetune.config.plan import Device, HardwareConfig
from finetune.errors import DataError, MachineError
from finetune.lora_factors import Factors
from finetune.merge import merged_tensors, write_merged
from finetune.merge_base import Base, nf4_round_trip
from finetune.merge_shard import rounding_ulp
from finetune.model import load_base, prepare_libraries, quantisation_config, quantised_modules

MODEL = ModelConfig("tiny", "x", "tiny", BaseConfig(BaseKind.folder, "tiny"))
IDS = torch.tensor([[5, 20, 30, 40, 50, 60]])


def quantised(folder: Path) -> Any:
    prepare_libraries()
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=quantisation_config(MODEL), device_map={"": "cpu"}
    )


def with_lora(folder: Path, zero: bool) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(quantised(folder), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    if not zero:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return model


def as_trained(folder: Path, names: list[str]) -> Base:
    return Base(folder, frozenset(names), double_quantisation=True, device="cpu")


def gradient(model: PeftModel) -> torch.Tensor:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_gradient_is_equal_before_and_after_an_eval_forward(tiny_model_folder: Path) -> None:
    model = with_lora(tiny_model_folder, zero=False)
    before = gradient(model)
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)
    after = gradient(model)
    assert before.abs().max() > 0
    assert torch.equal(before, after)


def test_dequantised_tensors_are_those_of_the_layers_bit_for_bit(tiny_model_folder: Path) -> None:
    import bitsandbytes.functional as bnb

    model = quantised(tiny_model_folder)
    layers = dict(model.named_modules())
    names = quantised_modules(model)
    assert len(names) == 14  # 2 layers of q k v o gate up down; the head stays as it is
    found = dict(as_trained(tiny_model_folder, names).tensors())
    for name in names:
        weight = layers[name].weight
        assert torch.equal(found[f"{name}.weight"], bnb.dequantize_4bit(weight.data, weight.quant_state))


def test_a_zero_adapter_leaves_the_dequantised_base_exactly_and_is_no_merge(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = with_lora(tiny_model_folder, zero=True)
    model.save_pretrained(tmp_path / "adapter")
    base, adapter = (
        as_trained(tiny_model_folder, quantised_modules(model)),
        read_adapter(tmp_path / "adapter"),
    )
    expected = dict(base.tensors())
    found = dict(merged_tensors(base.tensors(), adapter))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].to(torch.bfloat16), expected[name]) for name in expected)
    (tmp_path / "merged").mkdir()
    with pytest.raises(DataError, match="0 of 14 adapted modules differ from the base after the merge"):
        write_merged(base, adapter, tmp_path / "merged")


def test_embeddings_and_head_are_not_round_tripped(tiny_model_folder: Path) -> None:
    original = load_file(tiny_model_folder / "model.safetensors")
    names = quantised_modules(quantised(tiny_model_folder))
    found = dict(as_trained(tiny_model_folder, names).tensors())
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(found[name], original[name])
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(found[changed], original[changed])


def test_the_merge_equals_pefts_on_the_dequantised_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = with_lora(tiny_model_folder, zero=False)
    model.save_pretrained(tmp_path)
    names = quantised_modules(model)
    ours = dict(merged_tensors(as_trained(tiny_model_folder, names).tensors(), read_adapter(tmp_path)))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    plain.load_state_dict(
        {name: tensor.float() for name, tensor in as_trained(tiny_model_folder, names).tensors()}
    )
    theirs = PeftModel.from_pretrained(plain, tmp_path).merge_and_unload().state_dict()
    assert max(float((ours[name].float() - theirs[name]).abs().max()) for name in ours) < 1e-6


def test_the_delta_is_b_times_a_times_alpha_over_r() -> None:
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    adapter = AdapterWeights({"layer": Factors(down, up, scaling=0.5)})
    (merged,) = merged_tensors([("layer.weight", torch.ones(2, 2, dtype=torch.bfloat16))], adapter)
    assert merged[1].tolist() == [[2.5, 4.0], [3.0, 5.0]]


@pytest.mark.parametrize(
    ("tensor", "told"),
    [(torch.ones(3, 2), "another base"), (torch.full((2, 2), float("inf")), "not finite")],
)
def test_a_tensor_that_cannot_be_right_stops_the_merge(tensor: torch.Tensor, told: str) -> None:
    adapter = AdapterWeights({"layer": Factors(torch.ones(1, 2), torch.ones(2, 1), scaling=1.0)})
    with pytest.raises(DataError, match=told):
        list(merged_tensors([("layer.weight", tensor)], adapter))


def test_an_adapter_of_another_base_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = with_lora(tiny_model_folder, zero=False)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    renamed = {name.replace("layers.1.", "layers.9."): tensor for name, tensor in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(
        DataError, match="7 modules that were trained are not in the base, first model.layers.9"
    ):
        write_merged(
            as_trained(tiny_model_folder, quantised_modules(model)), read_adapter(tmp_path), tmp_path
        )


def test_rounding_is_counted_in_units_of_the_last_place() -> None:
    exact = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 2**-9, -2.0])  # a unit at 1.0 is 2^-7
    assert rounding_ulp(exact, exact.to(torch.bfloat16).float()) == 0.5
    assert rounding_ulp(torch.tensor([1.0]), torch.tensor([1.0 + 2**-7])) == 1.0
    assert rounding_ulp(torch.tensor([2.0 - 2**-8]), torch.tensor([2.0])) == 0.5  # up into the next binade


def test_an_nf4_round_trip_keeps_the_sixteen_levels() -> None:
    weight = torch.linspace(-1, 1, 64, dtype=torch.bfloat16).reshape(1, 64)
    assert len(nf4_round_trip(weight, double_quantisation=False).unique()) == 16


def test_a_missing_gpu_is_one_line(tiny_model_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    gpu = HardwareConfig("a100_80gb", Device.cuda)
    with pytest.raises(MachineError, match="hardware=a100_80gb needs a CUDA device"):
        load_base(tiny_artifact(tiny_model_folder), MODEL, gpu)


def tiny_artifact(folder: Path) -> Any:
    from finetune.artifacts import Artifact

    return Artifact(folder, None)  # type: ignore[arg-type]  (loading looks at the folder alone)


def test_tied_embeddings_survive_the_merge(tmp_path: Path) -> None:
    tiny.build_model(tmp_path / "base", tied=True)
    model = with_lora(tmp_path / "base", zero=False)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    adapter = read_adapter(tmp_path / "adapter")
    write_merged(as_trained(tmp_path / "base", quantised_modules(model)), adapter, tmp_path / "merged")
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def test_a_sharded_base_gives_the_same_tensors_and_an_index_in_bytes(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = with_lora(tiny_model_folder, zero=False)
    model.save_pretrained(tmp_path / "adapter")
    adapter, names = read_adapter(tmp_path / "adapter"), quantised_modules(model)
    AutoModelForCausalLM.from_pretrained(tiny_model_folder).save_pretrained(
        tmp_path / "base", max_shard_size="60KB"
    )
    written = {}
    for base, folder in ((tiny_model_folder, tmp_path / "one"), (tmp_path / "base", tmp_path / "many")):
        folder.mkdir()
        write_merged(as_trained(base, names), adapter, folder)
        files = sorted(folder.glob("*.safetensors"))
        written[folder.name] = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert len(files) > 2
    assert all(torch.equal(tensor, written["many"][name]) for name, tensor in written["one"].items())
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in written["many"].values())
    assert index["weight_map"].keys() == written["one"].keys()


def test_a_shard_that_the_index_names_and_is_not_there(tiny_model_folder: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_model_folder).save_pretrained(tmp_path, max_shard_size="60KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(DataError, match=f"names {gone.name}, which is not there"):
        list(as_trained(tmp_path, []).tensors())


@pytest.mark.gpu
def test_dequantised_tensors_are_those_of_the_layers_on_a_gpu(tiny_model_folder: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the round trip was compared on CPU only")
    import bitsandbytes.functional as bnb

    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_folder,
        dtype=torch.bfloat16,
        quantization_config=quantisation_config(MODEL),
        device_map={"": 0},
    )
    names = quantised_modules(model)
    base = Base(tiny_model_folder, frozenset(names), True, "cuda:0")
    layers = dict(model.named_modules())
    for name, tensor in base.tensors():
        if name.removesuffix(".weight") in names:
            weight = layers[name.removesuffix(".weight")].weight
            assert torch.equal(tensor, bnb.dequantize_4bit(weight.data, weight.quant_state).cpu())
