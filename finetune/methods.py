"""The config's LoRA settings as PEFT reads them, and what of them a model cannot have."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.schema import LoraSettings
from finetune.errors import ConfigError

ALL_LINEAR = ["all-linear"]
LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The first number of a module's name, as PEFT finds its layer (0.21.2, tuners_utils.py)."""


@dataclass(frozen=True)
class Adapted:
    """A linear layer that gets an adapter: its name, the rank there, and the smaller of its widths in and out."""

    name: str
    rank: int
    width: int


def lora_config(lora: LoraSettings, network: Any) -> Any:
    """PEFT's LoraConfig for this causal language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        layers_to_transform=lora.layers,
        target_modules=lora_targets(network, lora),
        task_type="CAUSAL_LM",
    )


def sort_targets(network: Any) -> None:
    """Put a PEFT model's targets in order: PEFT saves them as a set, in another order with each process."""
    for config in network.peft_config.values():
        config.target_modules = sorted(config.target_modules)


def require_targets(network: Any, lora: LoraSettings) -> None:
    """Raise ConfigError with every setting that this model cannot have; PEFT would pass over it or fail late."""
    if problems := [*lora_problems(network, lora)]:
        raise ConfigError(problems)


def lora_problems(network: Any, lora: LoraSettings) -> Iterator[str]:
    """Targets, layers and patterns that name nothing, and ranks above a layer's width."""
    linear = dict(_linear_layers(network))
    yield from _unknown_targets(network, lora, [name.rsplit(".", 1)[-1] for name in linear])
    yield from _unknown_layers(linear, lora)
    found = adapted_layers(network, lora)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if found and not any(_matches(pattern, layer.name) for layer in found):
                names = ", ".join(sorted({layer.name.rsplit(".", 1)[-1] for layer in found}))
                yield f"train.lora.{key}: {pattern} matches no adapted layer; use the end of a name such as {names}"
    for layer in {
        layer.name.rsplit(".", 1)[-1]: layer for layer in found if layer.rank > layer.width
    }.values():
        key = "rank" if layer.rank == lora.rank else "rank_pattern"
        yield (
            f"train.lora.{key}={layer.rank} exceeds the {layer.width} of layer {layer.name}; "
            "a rank above it adds nothing"
        )


def _unknown_targets(network: Any, lora: LoraSettings, linear: Sequence[str]) -> Iterator[str]:
    if lora.targets == ALL_LINEAR:
        return
    names = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
    for target in lora.targets:
        if target not in names:
            yield f"train.lora.targets: the model has no layer {target}; use all-linear"
        elif target not in linear:
            yield (
                f"train.lora.targets: {target} is no linear layer below the output head, so no adapter is merged "
                "into it; use all-linear"
            )


def _unknown_layers(linear: dict[str, Any], lora: LoraSettings) -> Iterator[str]:
    if lora.layers is None:
        return
    known = {index for name in linear if (index := _layer(name)) is not None}
    for index in lora.layers:
        if index not in known:
            yield f"train.lora.layers: the model has no layer {index}; they are 0 to {max(known)}"


def adapted_layers(network: Any, lora: LoraSettings) -> list[Adapted]:
    """The layers that PEFT will adapt with these settings, in the model's order."""
    targets = lora_targets(network, lora)
    return [
        Adapted(name, _rank(lora, name), min(module.in_features, module.out_features))
        for name, module in _linear_layers(network)
        if (targets == ALL_LINEAR[0] or name.rsplit(".", 1)[-1] in targets)
        and (lora.layers is None or _layer(name) in lora.layers)
    ]


def _rank(lora: LoraSettings, name: str) -> int:
    """PEFT takes the first pattern that matches (utils/other.py, get_pattern_key)."""
    return next((rank for key, rank in lora.rank_pattern.items() if _matches(key, name)), lora.rank)


def _matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _layer(name: str) -> int | None:
    found = LAYER.match(name)
    return int(found[1]) if found else None


def lora_targets(network: Any, lora: LoraSettings) -> str | list[str]:
    """The configured targets as PEFT shall take them for this model.

    Of a mixture of experts, all-linear means the attention's layers. PEFT would read more into it (0.21.2,
    utils/transformers_weight_conversion.py): adapters on the router and on the stacked experts, whose full delta it
    computes in every forward pass, and which no merge here knows. Beside `layers` PEFT takes names only.
    """
    if lora.targets != ALL_LINEAR:
        return list(lora.targets)
    experts = has_stacked_experts(network)
    if not experts and lora.layers is None:
        return ALL_LINEAR[0]
    names = (name for name, _ in _linear_layers(network) if not experts or ".self_attn." in name)
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def has_stacked_experts(network: Any) -> bool:
    """Whether the model keeps its experts in three-dimensional parameters, which bitsandbytes leaves in bf16."""
    return any(parameter.dim() == 3 for parameter in network.parameters())  # noqa: PLR2004


def _linear_layers(network: Any) -> list[tuple[str, Any]]:
    """Every linear layer but the output head, by name."""
    from torch import nn

    head = network.get_output_embeddings()
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
