"""The config's LoRA settings as PEFT reads them."""

from collections.abc import Sequence
from typing import Any

from finetune.config.schema import LoraSettings
from finetune.errors import ConfigError

ALL_LINEAR = ["all-linear"]


def lora_config(lora: LoraSettings, network: Any) -> Any:
    """PEFT's LoraConfig for this causal language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_targets(network, lora.targets),
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


def lora_targets(network: Any, targets: Sequence[str]) -> str | list[str]:
    """The configured targets as PEFT shall take them for this model.

    Of a mixture of experts, all-linear means the attention's layers. PEFT would read more into it (0.21.2,
    utils/transformers_weight_conversion.py): adapters on the router and on the stacked experts, whose full delta it
    computes in every forward pass, and which no merge here knows.
    """
    if list(targets) != ALL_LINEAR:
        return list(targets)
    if not has_stacked_experts(network):
        return ALL_LINEAR[0]
    return sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_layers(network) if ".self_attn." in name})


def has_stacked_experts(network: Any) -> bool:
    """Whether the model keeps its experts in three-dimensional parameters, which bitsandbytes leaves in bf16."""
    return any(parameter.dim() == 3 for parameter in network.parameters())  # noqa: PLR2004


def _linear_layers(network: Any) -> list[tuple[str, Any]]:
    from torch import nn

    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
