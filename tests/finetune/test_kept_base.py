"""The quantised base on disk: the network that quantising while loading gives, bit for bit, made once, never half."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from finetune.adapter_files import write_adapter
from finetune.adapter_reading import read_adapter
from finetune.architecture import config_of
from finetune.artifacts import Artifact, Manifest, Output, input_record
from finetune.artifacts.hashing import CACHE
from finetune.base import open_base
from finetune.chat import Encoded
from finetune.config import RunConfig, load
from finetune.config.schema import Checkpointing, TrainConfig
from finetune.dataset import TrainingRows
from finetune.errors import ConfigError, DataError, MachineError
from finetune.kept_base import quantise_base, training_base
from finetune.merge import write_merged
from finetune.merge_base import Base
from finetune.model import TrainedOn, load_base, quantised_base, quantised_modules, trained_on
from finetune.quantise import run as quantise
from finetune.stage import stage
from finetune.trainer import make_trainer

Given = Callable[..., RunConfig]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 261,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SHAPE, "intermediate_size": 129},  # odd: a packed byte holds values of two rows
    "qwen2": {**SHAPE, "tie_word_embeddings": True},  # biases
    "mixtral": {
        **SHAPE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },  # experts are stacked and stay bf16
    "deepseek_v3": {
        **SHAPE,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 32,
    },  # a bias that the family keeps in fp32
    "gemma3": {  # sees too: the files name layers otherwise than the network
        "text_config": {**SHAPE, "head_dim": 16, "sliding_window": 32, "tie_word_embeddings": True},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
    },
}


@pytest.fixture
def given(private: Path) -> Given:
    """The configuration of `tiny` with further settings, its base in a folder of its own."""
    return lambda *more: load(["experiment=tiny", f"paths.models_root={private / 'models'}", *more])


@pytest.fixture
def pinned(given: Given, private: Path, tiny_model_folder: Path) -> Artifact:
    shutil.copytree(tiny_model_folder, private / "models" / "tiny_llama")
    return open_base(given())


def place(private: Path, kind: str, facts: dict[str, Any], stored: torch.dtype, shard: str) -> None:
    """A base of the family in MODELS_ROOT."""
    from transformers import AutoModelForCausalLM

    folder = private / "models" / "tiny_llama"
    tokenizer = tiny.build_tokenizer(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = config_of({"model_type": kind, **facts, **ends, "bos_token_id": None})
    network = AutoModelForCausalLM.from_config(config, dtype=stored)
    for name, tensor in network.state_dict().items():
        if name.endswith("bias"):  # zero would hide a precision that is lost
            tensor.normal_()
    network.save_pretrained(folder, max_shard_size=shard)
    (folder / "LICENSE").write_text("Made for a test; no rights reserved.\n")


def tensors_of(network: Any) -> dict[str, torch.Tensor]:
    """All that a network computes with, packed weights with their scales."""
    return {**network.state_dict(), **dict(network.named_buffers())}


def require_equal(first: Any, second: Any) -> None:
    a, b = tensors_of(first), tensors_of(second)
    assert a.keys() == b.keys()
    unequal = [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]
    assert not unequal
    assert quantised_modules(first) == quantised_modules(second)


@pytest.mark.parametrize(
    ("stored", "shard", "double"), [(torch.bfloat16, "50GB", True), (torch.float32, "60KB", False)]
)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_quantised_base_loads_to_the_same_network_bit_for_bit(
    kind: str, stored: torch.dtype, shard: str, double: bool, private: Path, given: Given
) -> None:
    place(private, kind, FAMILIES[kind], stored, shard)
    run = given(f"model.double_quantisation={str(double).lower()}")
    base = open_base(run)
    kept = quantise_base(run, base)
    assert kept.folder == base.folder.parent / kept.manifest.run
    assert kept.manifest.run.endswith("-nf4")
    assert len(list(kept.folder.glob("*.safetensors"))) == len(list(base.folder.glob("*.safetensors")))
    while_loading, ahead = (load_base(item, run.model, run.hardware) for item in (base, kept))
    require_equal(while_loading.model, ahead.model)
    assert len(quantised_modules(ahead.model)) == kept.manifest.counts["quantised"] > 0
    assert ahead.model.dtype == torch.bfloat16


def test_the_folder_is_whole_without_the_pinned_one(given: Given, pinned: Artifact) -> None:
    kept = quantise_base(given(), pinned)
    assert {item["path"] for item in kept.manifest.files} == {item["path"] for item in pinned.manifest.files}
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert kept.path(name).read_bytes() == pinned.path(name).read_bytes()
    assert kept.manifest.inputs == {"base": input_record(pinned)}
    assert kept.manifest.config["quantised"] == {
        "quantisation": "nf4",
        "double_quantisation": True,
        "block_size": 64,
        "bitsandbytes": importlib.metadata.version("bitsandbytes"),
    }
    shutil.rmtree(pinned.folder)
    assert load_base(kept, given().model, given().hardware).model.is_loaded_in_4bit


def test_it_is_made_once_and_is_no_pinned_base(
    given: Given, pinned: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    first = training_base(given(), pinned)
    written = first.read.path("model.safetensors").stat().st_mtime_ns
    assert training_base(given(), pinned).read.manifest == first.read.manifest
    assert first.read.path("model.safetensors").stat().st_mtime_ns == written
    assert capsys.readouterr().out.count("quantising the base tiny_llama once") == 1
    assert open_base(given()).folder == first.pinned.folder == pinned.folder
    assert (pinned.folder.parent / "current").read_text() == pinned.folder.name + "\n"


def test_opening_both_bases_reads_no_file_again(given: Given, pinned: Artifact, private: Path) -> None:
    quantise_base(given(), pinned)
    cache = private / "artifacts" / CACHE
    before = cache.read_text()
    quantise_base(given(), open_base(given()))
    assert cache.read_text() == before


def test_a_lora_adapter_is_the_same_file_whichever_was_loaded(
    given: Given, pinned: Artifact, tmp_path: Path
) -> None:
    run = given()
    rows = TrainingRows(
        [Encoded([5, 20, 30, 40], [-100, -100, 30, 40])] * 4, [0, 1, 2, 3], {"steps": 2}, list("abcd")
    )
    train = TrainConfig(max_steps=2, global_batch=2, micro_batch=2, checkpointing=Checkpointing.none)
    for name, base in (("while loading", pinned), ("ahead", quantise_base(run, pinned))):
        torch.manual_seed(0)
        trainer = make_trainer(
            load_base(base, run.model, run.hardware), rows, train, run.hardware, tmp_path / "out"
        )
        trainer.train()
        write_adapter(trainer.model, run.model, Output(tmp_path / name))
    for file in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (tmp_path / "ahead" / file).read_bytes() == (tmp_path / "while loading" / file).read_bytes()


def adapter_of(base: TrainedOn, tmp_path: Path, run: RunConfig) -> list[str]:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    loaded = load_base(base.read, run.model, run.hardware)
    model = get_peft_model(loaded.model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    return quantised_modules(model)


@pytest.mark.parametrize(("tied", "shard"), [(False, "60KB"), (True, "50GB")])
def test_a_merge_from_it_is_the_merge_that_quantises_again(
    tied: bool, shard: str, given: Given, private: Path, tmp_path: Path
) -> None:
    place(private, "llama", {**SHAPE, "tie_word_embeddings": tied}, torch.bfloat16, shard)
    run = given()
    base = training_base(run, open_base(run))
    names = frozenset(adapter_of(base, tmp_path, run))
    again = Base(base.pinned.folder, names, double_quantisation=True, device="cpu")
    for name, source in (("again", again), ("kept", replace(again, kept=base.read.folder))):
        (tmp_path / name).mkdir()
        write_merged(source, read_adapter(tmp_path / "adapter"), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "kept").iterdir())
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()


def test_a_merge_refuses_a_base_with_other_layers_in_4_bits(given: Given, pinned: Artifact) -> None:
    kept = quantise_base(given(), pinned)
    few = Base(pinned.folder, frozenset(["model.layers.0.mlp.up_proj"]), True, "cpu", kept.folder)
    with pytest.raises(DataError, match="is quantised, but was not when the adapter was trained"):
        list(few.tensors())


def trained(run: RunConfig, base: TrainedOn, made: dict[str, str] | None) -> Artifact:
    """An adapter's folder as far as the choice of its base goes."""
    from finetune.artifacts.manifest import plain

    fields: dict[str, Any] = dict.fromkeys(Manifest.__dataclass_fields__)
    fields |= {"config": {"model": plain(run.model)}, "facts": {"quantised_base": made}}
    return Artifact(base.pinned.folder, Manifest(**fields))


def test_an_adapter_is_read_with_the_quantised_base_it_was_trained_on(
    given: Given, pinned: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    run = given()
    base = training_base(run, pinned)
    record = input_record(base.read)
    adapter = trained(run, base, record)
    assert trained_on(run.paths, adapter, pinned).read.folder == base.read.folder
    assert trained_on(run.paths, trained(run, base, None), pinned).read.folder == base.read.folder
    assert "note: the quantised base" not in capsys.readouterr().out
    other = trained(run, base, {**record, "content": "0" * 64})
    assert trained_on(run.paths, other, pinned).read is pinned
    assert f"{record['run']} that the adapter was trained on is another one now" in capsys.readouterr().out
    shutil.rmtree(base.read.folder)
    assert trained_on(run.paths, adapter, pinned).read is pinned
    assert "is not there; quantising" in capsys.readouterr().out


def test_other_settings_and_another_library_version_are_other_folders(
    given: Given, pinned: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    made = quantise_base(given(), pinned)
    manifest = json.loads(made.path("manifest.json").read_text())
    manifest["config"]["quantised"]["bitsandbytes"] = "0.1"
    made.path("manifest.json").write_text(json.dumps(manifest))
    old = made.folder.rename(made.folder.with_name("00000000-nf4"))
    plain = quantise_base(given("model.double_quantisation=false"), pinned)
    assert quantised_base(given().paths, given().model, pinned) is None
    capsys.readouterr()
    assert quantise_base(given(), pinned).folder == made.folder
    said = capsys.readouterr().out
    today = importlib.metadata.version("bitsandbytes")
    assert f'{old} stays as it is, since quantised.bitsandbytes="{today}" today, but "0.1"' in said
    assert f"{plain.folder} stays as it is, since quantised.double_quantisation=true today, but false" in said


def test_another_pinned_base_is_quantised_anew(given: Given, pinned: Artifact, private: Path) -> None:
    first = quantise_base(given(), pinned)
    path = private / "models" / "tiny_llama" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] += 1
    save_file(weights, path, metadata={"format": "pt"})
    from finetune.base import fetch_base

    with pytest.raises(ConfigError) as refused:
        fetch_base(given())
    meant = refused.value.problems[0].split("model.base.sha256=")[1][:64]
    changed = given(f"model.base.sha256={meant}")
    second = quantise_base(changed, fetch_base(changed))
    assert second.folder != first.folder
    assert load_file(second.path("model.safetensors"))["model.norm.weight"].equal(
        weights["model.norm.weight"]
    )


def test_a_killed_one_leaves_nothing_that_counts_and_is_made_again(
    private: Path, given: Given, argv: Callable[..., list[str]]
) -> None:
    place(private, "llama", {**SHAPE, "num_hidden_layers": 16}, torch.bfloat16, "400KB")
    run = given()
    base = open_base(run)
    command = [sys.executable, "-m", "finetune.quantise", *argv(f"paths.models_root={private / 'models'}")]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(base.folder.parent.glob("*-nf4/*.safetensors")):
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (folder,) = base.folder.parent.glob("*-nf4")
    assert not (folder / "manifest.json").exists()
    (folder / "model-00099-of-00099.safetensors").write_bytes(b"left over")
    assert quantised_base(run.paths, run.model, base) is None
    kept = training_base(run, base).read
    assert kept.folder == folder
    assert not kept.path("model-00099-of-00099.safetensors").exists()
    require_equal(*(load_base(item, run.model, run.hardware).model for item in (base, kept)))


def test_a_damaged_shard_or_manifest_is_one_line_and_exit_4(
    given: Given,
    pinned: Artifact,
    private: Path,
    argv: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = quantise_base(given(), pinned)
    command = argv(f"paths.models_root={private / 'models'}")
    path = kept.path("model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert stage("quantise-base", quantise, command) == 4
    assert f"{path} differs from its manifest" in capsys.readouterr().err
    kept.path("manifest.json").write_text("{")
    assert stage("quantise-base", quantise, command) == 4
    assert f"delete {kept.folder} and run `make quantise-base CONF=tiny`" in capsys.readouterr().err


def test_a_lacking_tensor_is_refused_and_never_made_up(
    given: Given, pinned: Artifact, tmp_path: Path
) -> None:
    kept = quantise_base(given(), pinned)
    shutil.copytree(kept.folder, tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DataError, match="1 weights of the model are not in its files, first model.norm.weight"
    ):
        load_base(Artifact(tmp_path / "cut", kept.manifest), given().model, given().hardware)


def test_without_room_it_is_refused_and_training_goes_on_without_it(
    given: Given, pinned: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**5))  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=r"the base in 4 bits needs 1\.\d MB and 0\.1 MB are free"):
        quantise_base(given(), pinned)
    assert training_base(given(), pinned) == TrainedOn(pinned, pinned)
    assert "note: no quantised base is kept, each stage quantises while loading" in capsys.readouterr().out
    assert not list(pinned.folder.parent.glob("*-nf4"))


def test_a_family_that_bitsandbytes_does_not_quantise_is_told(
    private: Path, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {key: SHAPE[key] for key in SHAPE if key not in ("intermediate_size", "num_key_value_heads")}
    place(private, "falcon", {**facts, "ffn_hidden_size": 128}, torch.bfloat16, "50GB")
    base = open_base(given())
    assert training_base(given(), base).read is base
    assert "bitsandbytes quantises none of its layers" in capsys.readouterr().out


def test_without_quantisation_there_is_nothing_to_keep(given: Given, pinned: Artifact) -> None:
    run = given("model.quantisation=none")
    assert training_base(run, pinned).read is pinned
    with pytest.raises(ConfigError, match=r"model\.quantisation=none: there is nothing to quantise"):
        quantise_base(run, pinned)
