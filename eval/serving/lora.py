"""Whether vLLM can serve an adapter by itself, and with which limit of its rank."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.serving.inputs import Exported
from finetune.model import ADAPTER
from finetune.vllm_adapters import rank_limit, why_unservable


@dataclass(frozen=True)
class LoraService:
    """An adapter's folder and its rank limit, or why vLLM does not take it."""

    folder: Path
    max_rank: int | None
    skipped: str | None = None

    def arguments(self, name: str) -> list[str]:
        """Of vLLM's server, to serve the adapter under this name."""
        return [
            "--enable-lora",
            "--max-lora-rank",
            str(self.max_rank),
            "--lora-modules",
            f"{name}={self.folder.resolve()}",
        ]


def lora_service(exported: Exported) -> LoraService:
    """How vLLM serves the adapter of an export, or why not."""
    folder = exported.adapter.path(ADAPTER)
    return as_served(folder, json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))


def as_served(folder: Path, config: Mapping[str, Any]) -> LoraService:
    """From PEFT's adapter_config.json."""
    return LoraService(folder, rank_limit(config), next(why_unservable(config), None))
