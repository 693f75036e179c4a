"""What a server reads: one set of end tokens everywhere, the template in both places, a config that vLLM takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.artifacts import Output
from finetune.config import load
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError
from finetune.server_files import served, write_merged_settings


@pytest.fixture
def run(argv: Callable[..., list[str]]) -> RunConfig:
    return load(argv("eval.max_new_tokens=12", "model.date_string='26 Jul 2024'"))


@pytest.fixture
def base(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "base"))


def changed(path: Path, **values: Any) -> None:
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def written(run: RunConfig, base: Path, tmp_path: Path) -> Path:
    output = Output(tmp_path / "export")
    output.folder.mkdir()
    write_merged_settings(run, base, output)
    return output.folder


def of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_greedy_answer_ends_where_it_ended_in_the_evaluation(
    run: RunConfig, base: Path, tmp_path: Path
) -> None:
    changed(
        base / "generation_config.json", temperature=0.7, top_p=0.8, do_sample=True, repetition_penalty=1.1
    )
    folder = written(run, base, tmp_path)
    end = of(base / "config.json")["eos_token_id"]
    assert of(folder / "generation_config.json") == {
        "do_sample": False,
        "eos_token_id": end,
        "max_new_tokens": 12,
        "pad_token_id": of(base / "config.json")["pad_token_id"],
    }
    assert of(folder / "config.json")["eos_token_id"] == end
    assert of(folder / "config.json")["dtype"] == "bfloat16"


def test_every_end_token_of_the_base_stays_one(run: RunConfig, base: Path, tmp_path: Path) -> None:
    end = of(base / "config.json")["eos_token_id"]
    changed(base / "generation_config.json", eos_token_id=[end, 3])
    folder = written(run, base, tmp_path)
    assert of(folder / "generation_config.json")["eos_token_id"] == sorted([end, 3])
    assert of(folder / "config.json")["eos_token_id"] == sorted([end, 3])


@pytest.mark.parametrize("kept", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_template_stands_in_both_places(run: RunConfig, base: Path, tmp_path: Path, kept: str) -> None:
    template = (base / "chat_template.jinja").read_text()
    if kept == "tokenizer_config.json":
        changed(base / kept, chat_template=template)
        (base / "chat_template.jinja").unlink()
    folder = written(run, base, tmp_path)
    assert (folder / "chat_template.jinja").read_text() == template
    assert of(folder / "tokenizer_config.json")["chat_template"] == template
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    kept_settings = {
        key: value for key, value in of(folder / "tokenizer_config.json").items() if key != "chat_template"
    }
    assert kept_settings.items() <= of(base / "tokenizer_config.json").items()


def test_a_tokenizer_with_both_is_copied_as_it_is(run: RunConfig, base: Path, tmp_path: Path) -> None:
    changed(base / "tokenizer_config.json", chat_template=(base / "chat_template.jinja").read_text())
    folder = written(run, base, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()


def test_a_template_that_ends_no_answer_is_refused(run: RunConfig, base: Path, tmp_path: Path) -> None:
    text = (base / "chat_template.jinja").read_text().replace("<|end|>", "")
    (base / "chat_template.jinja").write_text(text)
    with pytest.raises(ConfigError, match="would never stop"):
        written(run, base, tmp_path)


def test_serve_yaml_is_what_vllm_reads_and_holds_the_same_command(
    run: RunConfig, base: Path, tmp_path: Path
) -> None:
    text = (written(run, base, tmp_path) / "serve.yaml").read_text()
    found = yaml.safe_load(text)
    assert found == {
        "model": ".",
        "served-model-name": "tiny-merged",
        "dtype": "bfloat16",
        "max-model-len": 512,  # the tiny model's context
        "override-generation-config": '{"temperature": 0.0}',
        "default-chat-template-kwargs": '{"date_string": "26 Jul 2024"}',
    }
    for key in found:
        assert f"--{key} " in text
    assert "python -m vllm.entrypoints.openai.api_server --config serve.yaml" in text
    assert yaml.safe_load(served({"enable-lora": True, "model": "a/b: c"})) == {
        "enable-lora": True,
        "model": "a/b: c",
    }
