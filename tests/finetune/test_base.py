import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from finetune.base import _normalise_tokenizer, fetch_base, open_base
from finetune.config import load
from finetune.errors import DataError, MachineError


def test_a_folder_is_pinned_once_and_opened_without_its_source(
    private: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = tmp_path_factory.mktemp("source")
    tiny.build_model(models / "tiny_llama")
    run = load(["experiment=tiny", f"paths.models_root={models}"])
    first = open_base(run)
    names = {item["path"] for item in first.manifest.files}
    assert {"model.safetensors", "tokenizer.json", "config.json", "LICENSE"} <= names
    (models / "tiny_llama" / "config.json").unlink()
    assert open_base(run).manifest.content == first.manifest.content


def test_pickled_weights_are_refused(private: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    models = tmp_path_factory.mktemp("source")
    (models / "tiny_llama").mkdir()
    (models / "tiny_llama" / "config.json").write_text("{}")
    (models / "tiny_llama" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no \\*.safetensors"):
        fetch_base(load(["experiment=tiny", f"paths.models_root={models}"]))


@pytest.mark.parametrize("package", ["not_installed_here", "not.installed"])
def test_a_missing_package_names_the_command(package: str) -> None:
    with pytest.raises(MachineError, match="run `make setup`"):
        fetch_base(load(["experiment=licences_smollm135m", f"model.base.package={package}"]))


def test_a_missing_file_of_a_package_is_named() -> None:
    with pytest.raises(MachineError, match=r"has no file nope\.gguf \(model\.base\.file\)"):
        fetch_base(
            load(["experiment=licences_smollm135m", "model.base.package=torch", "model.base.file=nope.gguf"])
        )


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "LICENSE").unlink(), "holds no LICENSE text"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "damaged or cut short"),
    ],
)
def test_a_base_that_may_not_ship_or_is_cut_short_is_not_pinned(
    private: Path, tmp_path_factory: pytest.TempPathFactory, break_it: Callable[[Path], None], told: str
) -> None:
    models = tmp_path_factory.mktemp("source")
    tiny.build_model(models / "tiny_llama")
    break_it(models / "tiny_llama")
    with pytest.raises(DataError, match=told):
        fetch_base(load(["experiment=tiny", f"paths.models_root={models}"]))
    assert not list((private / "artifacts").rglob("manifest.json"))


def test_tokenizer_files_are_those_that_servers_read(tmp_path: Path) -> None:
    written = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    _normalise_tokenizer(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "chat_template": "{{ messages }}",
    }
