"""What a server reads beside the weights: tokenizer and chat template, settings as evaluated, the command."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import Output
from finetune.base import TOKENIZER_FILES
from finetune.config import RunConfig
from finetune.config.schema import ExportFormat
from finetune.errors import DataError

LOCAL_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path")
TOKENIZER = (*TOKENIZER_FILES, "merges.txt", "vocab.json", "tokenizer.model", "added_tokens.json")
SERVE = "serve.yaml"
COMMAND = "python -m vllm.entrypoints.openai.api_server"


@dataclass(frozen=True)
class Ends:
    """The tokens at which a greedy answer of the evaluation stopped, and the one that fills batches."""

    ids: list[int]
    pad: int

    @property
    def setting(self) -> int | list[int]:
        """As config.json holds it: one number where there is one."""
        return self.ids[0] if len(self.ids) == 1 else self.ids


def write_merged_settings(run: RunConfig, base: Path, output: Output) -> None:
    """Write what a server reads beside merged weights; raises DataError as `write_tokenizer` does."""
    ends = write_tokenizer(run, base, output)
    config = write_settings(run, base, ends, output)
    own = {"quantization": "bitsandbytes"} if run.export.format is ExportFormat.nf4 else {}
    write_serve(run, config, own, output)


def write_tokenizer(run: RunConfig, base: Path, output: Output) -> Ends:
    """Copy the base's tokenizer files as they are, the chat template in both places; the ends of an answer.

    transformers 5 would write a tokenizer that servers cannot read. Servers look for the template in
    tokenizer_config.json (TGI, llama.cpp) or in chat_template.jinja. Raises DataError where an answer as trained ends
    with none of the end tokens.
    """
    from finetune.model import read_renderer

    for name in TOKENIZER:
        if (base / name).is_file():
            output.copy(base / name, name)
    renderer = read_renderer(base, run.model)
    renderer.texts([{"role": "user", "content": "x"}], "y")  # refuses a template that ends no answer
    template = str(renderer.tokenizer.chat_template)
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("chat_template") != template:
        text = json.dumps({**config, "chat_template": template}, indent=2, ensure_ascii=False)
        output.write_text("tokenizer_config.json", text + "\n")
    output.write_text("chat_template.jinja", template)
    tokenizer: Any = renderer.tokenizer
    ids = sorted(tokenizer.convert_tokens_to_ids(token) for token in renderer.end_tokens)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        raise DataError(
            f"{base}: the tokenizer's end token is not among those that end an answer; mend the base"
        )
    return Ends(ids, ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def write_settings(run: RunConfig, base: Path, ends: Ends, output: Output) -> dict[str, Any]:
    """Write config.json and generation_config.json as evaluated: bf16, greedy, the same end tokens; the former."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for key in LOCAL_KEYS:
        config.pop(key, None)
    for part in (config, *([config["text_config"]] if "text_config" in config else [])):
        part["dtype"] = "bfloat16"
        part["eos_token_id"] = ends.setting
    output.write_text("config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    settings = {
        "do_sample": False,
        "eos_token_id": ends.setting,
        "max_new_tokens": run.eval.max_new_tokens,
        "pad_token_id": ends.pad,
    }
    output.write_text("generation_config.json", json.dumps(settings, indent=2) + "\n")
    return config


def write_serve(run: RunConfig, config: Mapping[str, Any], own: Mapping[str, Any], output: Output) -> None:
    """Write serve.yaml, which vLLM reads as its --config; `own` are the settings of this format."""
    from finetune.model import context_tokens

    longest = min(context_tokens(config) or run.plan.serve_context, run.plan.serve_context)
    settings: dict[str, Any] = {
        "model": ".",
        "served-model-name": run.model.export_name,
        "dtype": "bfloat16",
        "max-model-len": longest,
        "override-generation-config": json.dumps({"temperature": 0.0}),
        **own,
    }
    if run.model.date_string:
        settings["default-chat-template-kwargs"] = json.dumps({"date_string": run.model.date_string})
    output.write_text(SERVE, served(settings))


def served(settings: Mapping[str, Any]) -> str:
    """The text of serve.yaml: settings for vLLM's --config, and the command that is the same."""
    flags = [f"--{key}" if value is True else f"--{key} {_quoted(value)}" for key, value in settings.items()]
    command = " \\\n#     ".join([COMMAND, *flags])
    lines = [f"{key}: {'true' if value is True else _quoted(value)}" for key, value in settings.items()]
    return (
        "# Greedy, in bf16, as evaluated. Run inside this folder, with vLLM installed:\n"
        f"#   {COMMAND} --config {SERVE}\n"
        f"# or, which is the same:\n#   {command}\n" + "\n".join(lines) + "\n"
    )


def _quoted(value: Any) -> str:
    text = str(value)
    return (
        f"'{text}'"
        if isinstance(value, str) and not text.replace("-", "").replace("_", "").isalnum()
        else text
    )
