"""An adapter's file, tensor by tensor: every one of them gets a meaning, or the merge is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.adapter_config import by_pattern, read_config, scaling_of
from finetune.adapter_weights import AdapterWeights, Stacked
from finetune.errors import DataError
from finetune.lora_factors import Factors, Kind
from finetune.mapped_tensors import tensor_of
from finetune.safetensors_stream import Mapped

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
WRAPPED, SAVED, ORIGINAL = ".base_layer", ".modules_to_save.", ".original_module."
"""What PEFT puts into names: around what it adapts, before what it replaces, before its copy of the base's own."""
PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "tokens down",
    ".lora_embedding_B": "tokens up",
    ".token_adapter.trainable_tokens_delta": "tokens",
}
Parts = Mapping[str, Tensor]


def read_adapter(folder: Path) -> AdapterWeights:
    """What PEFT saved of LoRA, rsLoRA or DoRA, its tensors mapped from the file.

    Raises DataError on anything that a merge would lose.
    """
    config = read_config(folder)
    mapped = Mapped(folder / WEIGHTS)
    parts: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name in mapped.entries:
        end = next((end for end in PARTS if name.endswith(end)), None)
        if end is not None:
            parts.setdefault(name.removeprefix(PREFIX).removesuffix(end), {})[PARTS[end]] = tensor_of(
                mapped, name
            )
        elif "lora_" in name or not name.startswith(PREFIX):
            raise DataError(f"{folder}: tensor {name} is not a LoRA factor, so a merge would lose it")
        elif ORIGINAL not in name:
            plain = name.removeprefix(PREFIX).replace(WRAPPED, "").replace(SAVED, ".")
            replaced[plain] = tensor_of(mapped, name)
    return _weights(folder, config, parts, replaced)


def _weights(
    folder: Path, config: Mapping[str, Any], parts: Mapping[str, Parts], replaced: Mapping[str, Tensor]
) -> AdapterWeights:
    factors, added, tokens, stacked = {}, {}, {}, []
    broken = []
    for name in sorted(parts):
        found, module = parts[name], name.replace(WRAPPED, "")
        if found.keys() == {"tokens"}:
            tokens[f"{module}.weight"] = (_token_indices(folder, config, module), found["tokens"])
        elif _stacks(config, module) and found.keys() == {"down", "up"}:
            stacked.append(Stacked(module, found["down"], found["up"]))
        elif not _whole(config, found):
            broken.append(name)
        else:
            factors[module] = _factors(folder, config, module, found)
            if "bias" in found:
                added[f"{module}.bias"] = found["bias"] * factors[module].scaling
    if broken or not parts and not replaced:
        names = f"first {broken[0]}" if broken else "no tensor at all"
        raise DataError(f"{folder}: A and B factors{_and_magnitudes(config)} do not pair up, {names}")
    return AdapterWeights(factors, replaced, added, tokens, stacked, config)


def _whole(config: Mapping[str, Any], found: Parts) -> bool:
    """Whether a layer's tensors are those that the settings lead to."""
    if "tokens down" in found:
        return found.keys() == {"tokens down", "tokens up"} and not config.get("use_dora")
    needed = {"down", "up"} | ({"magnitude"} if config.get("use_dora") else set())
    return found.keys() == needed | ({"bias"} if config.get("lora_bias") else set())


def _and_magnitudes(config: Mapping[str, Any]) -> str:
    return " and magnitudes" if config.get("use_dora") else ""


def _stacks(config: Mapping[str, Any], module: str) -> bool:
    """Whether the module is one whose parameters were adapted themselves."""
    owners = {target.rpartition(".")[0] for target in config.get("target_parameters") or []}
    return any(owner and f".{module}".endswith(f".{owner}") for owner in owners)


def _token_indices(folder: Path, config: Mapping[str, Any], module: str) -> list[int]:
    found = config.get("trainable_token_indices")
    if isinstance(found, dict):
        found = next((ids for key, ids in found.items() if f".{module}".endswith(f".{key}")), None)
    if not found:
        raise DataError(f"{folder}: nothing says which tokens the rows of {module} are of")
    return [int(index) for index in found]


def _factors(folder: Path, config: Mapping[str, Any], module: str, parts: Parts) -> Factors:
    """The factors with the layer's own scaling. The rank is in the shapes; a config that says another is damaged."""
    embedding = "tokens down" in parts
    down, up = (parts[f"tokens {side}" if embedding else side] for side in ("down", "up"))
    rank = int(by_pattern(config.get("rank_pattern"), module, config["r"]))
    if not down.shape[0] == up.shape[1] == rank:
        raise DataError(
            f"{folder}: {module} has factors of rank {down.shape[0]} and {up.shape[1]}, "
            f"but adapter_config.json says {rank}"
        )
    return Factors(
        down,
        up,
        scaling_of(config, module, rank),
        parts.get("magnitude"),
        Kind.embedding if embedding else Kind.linear,
        bool(config.get("fan_in_fan_out")),
    )
