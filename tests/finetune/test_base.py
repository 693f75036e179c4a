"""The pinned base: opened offline ever after, refused where it is not the one that is meant."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.base import fetch_base, open_base, pinned_base
from finetune.config import RunConfig, load
from finetune.errors import ConfigError, DataError, MachineError
from finetune.fetch_gguf import normalise_tokenizer

Given = Callable[..., RunConfig]


@pytest.fixture
def models(private: Path, tiny_model_folder: Path) -> Path:
    """A MODELS_ROOT whose model a test may damage."""
    shutil.copytree(tiny_model_folder, private / "models" / "tiny_llama")
    return private / "models"


@pytest.fixture
def given(models: Path) -> Given:
    """The configuration of `tiny` with further settings."""
    return lambda *more: load(["experiment=tiny", f"paths.models_root={models}", *more])


def test_a_folder_is_pinned_once_and_opened_without_its_source(given: Given, models: Path) -> None:
    first = open_base(given())
    names = {item["path"] for item in first.manifest.files}
    assert names == {
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not (first.folder.parent / ".download").exists()
    shutil.rmtree(models)
    assert open_base(given()).manifest.content == first.manifest.content


def test_another_path_or_revision_in_the_config_is_refused_key_by_key(given: Given, models: Path) -> None:
    open_base(given())
    (models / "tiny_llama").rename(models / "moved")
    with pytest.raises(ConfigError) as refused:
        open_base(given("model.base.path=moved", "model.base.revision=v2"))
    lines = refused.value.problems
    assert [line.split(" today")[0] for line in lines] == [
        'model.base.path="moved"',
        'model.base.revision="v2"',
    ]
    assert all("run `make fetch-base CONF=…`" in line for line in lines)
    fetch_base(given("model.base.path=moved", "model.base.revision=v2"))
    assert open_base(given("model.base.path=moved", "model.base.revision=v2")).manifest.config["base"] == {
        "kind": "folder",
        "path": "moved",
        "package": None,
        "file": None,
        "repo": None,
        "revision": "v2",
    }


def test_an_expected_content_neither_moves_nor_hides_the_base(given: Given) -> None:
    first = open_base(given())
    content = first.manifest.inputs["source"]["content"]
    assert content == first.manifest.content
    assert open_base(given(f"model.base.sha256={content}")).folder == first.folder
    with pytest.raises(ConfigError, match=f"model.base.sha256={'0' * 64} today, but {content} in "):
        open_base(given(f"model.base.sha256={'0' * 64}"))


def test_a_base_that_is_not_the_expected_one_is_not_pinned(given: Given, private: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"sha256={'0' * 64} is expected, but .*tiny_llama has content [0-9a-f]{{64}};"
    ):
        fetch_base(given(f"model.base.sha256={'0' * 64}"))
    assert not list((private / "artifacts").rglob("manifest.json"))


def test_other_weights_replace_a_pinned_base_only_when_they_are_named(given: Given, models: Path) -> None:
    first = open_base(given())
    content = bytearray((models / "tiny_llama" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (models / "tiny_llama" / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="if the new weights are meant, set model.base.sha256=") as refused:
        fetch_base(given())
    assert first.manifest.content in refused.value.problems[0]
    assert open_base(given()).folder == first.folder
    new = refused.value.problems[0].split("model.base.sha256=")[1][:64]
    second = fetch_base(given(f"model.base.sha256={new}"))
    assert second.manifest.content == new
    assert open_base(given()).folder == second.folder
    assert (first.folder / "model.safetensors").read_bytes()[-1] != content[
        -1
    ]  # what adapters refer to is still there


def test_a_pinned_file_that_changed_is_refused_and_never_fetched_over(given: Given) -> None:
    pinned = open_base(given())
    path = pinned.path("config.json")
    path.write_text(path.read_text().replace("512", "513"))
    for again in (open_base, fetch_base, pinned_base):
        with pytest.raises(DataError, match=r"config\.json differs from its manifest"):
            again(given())


@pytest.mark.parametrize("package", ["not_installed_here", "not.installed"])
def test_a_missing_package_names_the_command(private: Path, package: str) -> None:
    with pytest.raises(MachineError, match="run `make setup`"):
        fetch_base(load(["experiment=licences_smollm135m", f"model.base.package={package}"]))


def test_a_missing_file_of_a_package_is_named(private: Path) -> None:
    with pytest.raises(MachineError, match=r"has no file nope\.gguf \(model\.base\.file\)"):
        fetch_base(
            load(["experiment=licences_smollm135m", "model.base.package=torch", "model.base.file=nope.gguf"])
        )


def test_tokenizer_files_are_those_that_servers_read(tmp_path: Path) -> None:
    written = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    normalise_tokenizer(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "chat_template": "{{ messages }}",
    }
