"""What vLLM serves of an adapter by itself: the limit of its rank, and what it does not take."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be (vLLM 0.32, vllm/config/lora.py): a rank between two takes the upper one."""


def rank_limit(config: Mapping[str, Any]) -> int | None:
    """The least --max-lora-rank for PEFT's adapter_config.json; None: vLLM takes none so high."""
    return next((limit for limit in MAX_RANKS if _rank(config) <= limit), None)


def why_unservable(config: Mapping[str, Any]) -> Iterator[str]:
    """Each thing in an adapter_config.json that vLLM would refuse or, worse, leave out."""
    if rank_limit(config) is None:
        yield f"the adapter's rank {_rank(config)} is above the {MAX_RANKS[-1]} that vLLM takes"
    if config.get("use_dora"):
        yield "the adapter is DoRA, which vLLM does not serve as an adapter"
    if config.get("modules_to_save") or config.get("trainable_token_indices"):
        yield "the adapter holds whole weights (modules_to_save, added tokens), which vLLM does not load"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "the adapter holds biases, which vLLM does not load"


def _rank(config: Mapping[str, Any]) -> int:
    """The highest rank of any module."""
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
