"""The adapter alone, for a server that holds the base: vLLM's --enable-lora and what it can load."""

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.errors import RefusedError
from finetune.server_files import MAX_LORA_RANKS, Ends, max_lora_rank, write_serve, write_tokenizer

FILES = ("adapter_config.json", "adapter_model.safetensors")
REFERENCE = "base.json"
"""Which base the adapter belongs to, by the digest of each of its files."""


def write_adapter_folder(run: RunConfig, adapter: Artifact, base: Artifact, output: Output) -> Ends:
    """Write adapter, tokenizer, serve.yaml and the digests of its base.

    Raises RefusedError, with a line each, for what vLLM cannot serve as an adapter.
    """
    from finetune.model import ADAPTER

    config = json.loads(adapter.path(f"{ADAPTER}/adapter_config.json").read_text(encoding="utf-8"))
    problems = list(unservable(config))
    if problems:
        raise RefusedError(problems)
    for name in FILES:
        shutil.copyfile(adapter.path(f"{ADAPTER}/{name}"), output.path(name))
    ends = write_tokenizer(run, base.folder, output)
    output.write_json(REFERENCE, _reference(run, base))
    own = {
        "model": run.model.base.repo or run.model.name,
        "served-model-name": run.model.base.repo or run.model.name,
        "enable-lora": True,
        "lora-modules": f"{run.model.export_name}=.",
        "max-lora-rank": max_lora_rank(_rank(config)),
    }
    write_serve(run, json.loads(base.path("config.json").read_text(encoding="utf-8")), own, output)
    return ends


def unservable(config: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing in an adapter_config.json that vLLM would refuse or, worse, leave out."""
    merge = "export.format=merged carries it"
    if max_lora_rank(_rank(config)) is None:
        yield f"the adapter's rank {_rank(config)} is above the {MAX_LORA_RANKS[-1]} that vLLM takes; {merge}"
    if config.get("use_dora"):
        yield f"the adapter is DoRA, which vLLM does not serve as an adapter; {merge}"
    if config.get("modules_to_save") or config.get("trainable_token_indices"):
        yield f"the adapter holds whole weights (modules_to_save), which vLLM does not load; {merge}"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield f"the adapter holds biases, which vLLM does not load; {merge}"


def _rank(config: Mapping[str, Any]) -> int:
    """The highest rank of any module."""
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


def _reference(run: RunConfig, base: Artifact) -> dict[str, Any]:
    files = {item["path"]: item["sha256"] for item in base.manifest.files}
    return {
        "repo": run.model.base.repo or run.model.name,
        "revision": base.manifest.config.get("base", {}).get("revision"),
        "content": base.manifest.content,
        "sha256": files,
    }
