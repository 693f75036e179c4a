"""What travels beside merged weights: tokenizer verbatim, config without traces, licence texts, the report."""

import json
import shutil
from pathlib import Path

from finetune import artifacts
from finetune.artifacts import Artifact, Output
from finetune.base import TOKENIZER_FILES, legal_texts
from finetune.config import RunConfig

LOCAL_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path")


def copy_companions(base: Path, output: Output) -> None:
    """Copy what a server needs from the base; transformers would write a tokenizer that servers cannot read."""
    for name in (*TOKENIZER_FILES, "generation_config.json", "merges.txt", "vocab.json", "tokenizer.model"):
        if (base / name).is_file():
            shutil.copyfile(base / name, output.path(name))
    for path in legal_texts(base):
        shutil.copyfile(path, output.path(path.name))
    config = json.loads((base / "config.json").read_text())
    for key in LOCAL_KEYS:
        config.pop(key, None)
    for part in (config, config.get("text_config", {})):
        part["dtype"] = "bfloat16"
    output.write_text("config.json", json.dumps(config, indent=2) + "\n")


def report_on(run: RunConfig, adapter: Artifact) -> Artifact | None:
    """The last evaluation, where it was of this very adapter."""
    if not artifacts.has_current(run.paths, "report", run.name):
        return None
    report = artifacts.open_last(run.paths, "report", run.name)
    same = report.manifest.inputs["adapter"]["content"] == adapter.manifest.content
    return report if same else None
