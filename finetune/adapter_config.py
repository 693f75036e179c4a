"""PEFT's adapter_config.json: what of it a merge needs, and what it refuses."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import DataError

READ = set(
    "r lora_alpha use_rslora use_dora rank_pattern alpha_pattern lora_bias fan_in_fan_out target_parameters "
    "modules_to_save trainable_token_indices".split()
)
IRRELEVANT = set(
    "auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform "
    "lora_dropout megatron_core peft_version qalora_group_size revision target_modules task_type".split()
)
"""Settings of PEFT's LoraConfig (0.21.2) that decide which tensors there are or how they were trained, and nothing of
what they mean; megatron_core and qalora_group_size have a value without a use."""
MEANT = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, "gaussian"),
}
"""Values that leave the base as it is; the initialisations that have a name (PiSSA, OLoRA, LoftQ) change it."""


def read_config(folder: Path) -> dict[str, Any]:
    """The settings that an adapter was saved with. Raises DataError for any whose meaning a merge would lose."""
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__})") from None
    unknown = [
        key
        for key, value in sorted(config.items())
        if (value not in MEANT[key] if key in MEANT else key not in READ | IRRELEVANT and value)
    ]
    if unknown:
        raise DataError(f"{folder}: the adapter uses {', '.join(unknown)}, which this merge does not know")
    return config


def scaling_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The factor of a layer's product: alpha over the rank, or over its root (rsLoRA, arXiv 2312.03732)."""
    alpha: float = by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def by_pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value that PEFT takes for this module: that of the first key which matches the end of its name."""
    if not pattern:
        return default
    from peft.utils.other import get_pattern_key

    return pattern.get(get_pattern_key(list(pattern), module), default)
