"""Whether vLLM can serve an adapter by itself, and with which limit of its rank."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.serving.inputs import Exported
from finetune.model import ADAPTER

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be (vLLM 0.32, vllm/config/lora.py): a rank between two takes the upper one."""


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
            f"{name}={self.folder}",
        ]


def lora_service(exported: Exported) -> LoraService:
    """How vLLM serves the adapter of an export, or why not."""
    folder = exported.adapter.path(ADAPTER)
    return as_served(folder, json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))


def as_served(folder: Path, config: Mapping[str, Any]) -> LoraService:
    """From PEFT's adapter_config.json."""
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    limit = next((allowed for allowed in RANKS if allowed >= rank), None)
    reasons = {
        "vLLM serves no DoRA adapter": bool(config.get("use_dora")),
        "vLLM serves no adapter with modules_to_save": bool(config.get("modules_to_save")),
        "vLLM serves no adapter with added tokens": bool(config.get("trainable_token_indices")),
        "vLLM serves no adapter with biases": config.get("bias", "none") != "none"
        or bool(config.get("lora_bias")),
        f"vLLM serves no rank above {RANKS[-1]}": limit is None,
    }
    skipped = next((reason for reason, holds in reasons.items() if holds), None)
    return LoraService(folder, limit, skipped)
