"""The adapter alone, for a server that holds the base: vLLM's --enable-lora and what it can load."""

import json
from typing import Any

from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.errors import RefusedError
from finetune.server_files import write_serve, write_tokenizer
from finetune.vllm_adapters import rank_limit, why_unservable

FILES = ("adapter_config.json", "adapter_model.safetensors")
REFERENCE = "base.json"
"""Which base the adapter belongs to, by the digest of each of its files."""


def write_adapter_folder(run: RunConfig, adapter: Artifact, base: Artifact, output: Output) -> None:
    """Write adapter, tokenizer, serve.yaml and the digests of its base.

    Raises RefusedError, with a line each, for what vLLM cannot serve as an adapter.
    """
    from finetune.model import ADAPTER

    config = json.loads(adapter.path(f"{ADAPTER}/adapter_config.json").read_text(encoding="utf-8"))
    problems = [f"{why}; export.format=merged carries it" for why in why_unservable(config)]
    if problems:
        raise RefusedError(problems)
    for name in FILES:
        output.copy(adapter.path(f"{ADAPTER}/{name}"), name)
    write_tokenizer(run, base.folder, output)
    output.write_json(REFERENCE, _reference(run, base))
    own = {
        "model": run.model.base.repo or run.model.name,
        "served-model-name": run.model.base.repo or run.model.name,
        "enable-lora": True,
        "lora-modules": f"{run.model.export_name}=.",
        "max-lora-rank": rank_limit(config),
    }
    write_serve(run, json.loads(base.path("config.json").read_text(encoding="utf-8")), own, output)


def _reference(run: RunConfig, base: Artifact) -> dict[str, Any]:
    files = {item["path"]: item["sha256"] for item in base.manifest.files}
    return {
        "repo": run.model.base.repo or run.model.name,
        "revision": base.manifest.config.get("base", {}).get("revision"),
        "content": base.manifest.content,
        "sha256": files,
    }
