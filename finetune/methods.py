"""The config's LoRA settings as PEFT reads them."""

from typing import Any

from finetune.config.schema import LoraSettings
from finetune.errors import ConfigError

ALL_LINEAR = ["all-linear"]


def lora_config(lora: LoraSettings) -> Any:
    """PEFT's LoraConfig for a causal language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets[0] if lora.targets == ALL_LINEAR else lora.targets,
        task_type="CAUSAL_LM",
    )


def require_targets(network: Any, lora: LoraSettings) -> None:
    """Raise ConfigError for every target that names no layer of the model; PEFT would pass over it."""
    names = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
    unknown = [] if lora.targets == ALL_LINEAR else [name for name in lora.targets if name not in names]
    if unknown:
        raise ConfigError(
            [f"train.lora.targets: the model has no layer {name}; use all-linear" for name in unknown]
        )
