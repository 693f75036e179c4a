"""What PEFT saved of an adapter, and what it makes of a weight."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import DataError

PREFIX = "base_model.model."
PARTS = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude"}
READ = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}
IRRELEVANT = set(
    "auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform "
    "lora_dropout megatron_core peft_version qalora_group_size revision target_modules task_type".split()
)
"""Settings of PEFT's LoraConfig (0.21.2) that decide which tensors there are or how they were trained, and nothing of
what they mean; megatron_core and qalora_group_size have a value without a use."""
MEANT = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""Values that leave the base as it is; the initialisations that have a name (PiSSA, OLoRA, LoftQ) change it."""


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: A [rank, in], B [out, rank], the factor of their product; with DoRA magnitudes [out]."""

    down: Tensor
    up: Tensor
    scaling: float
    magnitude: Tensor | None = None

    def delta(self) -> Tensor:
        """B A times the scaling in fp32 (LoRA, arXiv 2106.09685, section 4.1); shape [out, in]."""
        return (self.up.float() @ self.down.float()) * self.scaling

    def merged(self, weight: Tensor) -> Tensor:
        """The adapted weight [out, in] in fp32, on the weight's device.

        DoRA gives each row of the sum the length of its magnitude (arXiv 2402.09353, equation 5; peft 0.21.2,
        lora/dora.py: the norm runs over the inputs).
        """
        total = weight.float() + self.delta().to(weight.device)
        if self.magnitude is None:
            return total
        length = torch.linalg.norm(total, dim=1)
        longer: Tensor = self.magnitude.to(total) / length
        return longer.unsqueeze(1) * total


@dataclass(frozen=True)
class AdapterWeights:
    """Each adapted layer's factors by the base's module name."""

    factors: Mapping[str, Factors]

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """What the adapter makes of that module's weight, in fp32.

        Raises DataError where the factors do not fit the weight or the result is not finite.
        """
        factors = self.factors[module]
        shape = [factors.up.shape[0], factors.down.shape[1]]
        if shape != list(weight.shape):
            raise DataError(
                f"{module}.weight is {list(weight.shape)} but the adapter's delta {shape}: another base?"
            )
        total = factors.merged(weight)
        if not torch.isfinite(total).all():
            raise DataError(
                f"{module}.weight is not finite after the merge; the adapter or the base is damaged"
            )
        return total


def read_adapter(folder: Path) -> AdapterWeights:
    """The LoRA, rsLoRA or DoRA weights that PEFT saved. Raises DataError on anything a merge would lose."""
    config = _read_config(folder)
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}/adapter_model.safetensors cannot be read ({error})") from None
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        end = next((end for end in PARTS if name.endswith(end)), None)
        if end is None:
            raise DataError(f"{folder}: tensor {name} is not a LoRA factor, so a merge would lose it")
        parts.setdefault(name.removeprefix(PREFIX).removesuffix(end), {})[PARTS[end]] = tensor
    _require_whole(folder, config, parts)
    return AdapterWeights({name: _factors(folder, config, name, parts[name]) for name in sorted(parts)})


def _read_config(folder: Path) -> dict[str, Any]:
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


def _require_whole(
    folder: Path, config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]
) -> None:
    needed = {"down", "up", "magnitude"} if config.get("use_dora") else {"down", "up"}
    broken = sorted(name for name, found in parts.items() if found.keys() != needed)
    if broken or not parts:
        names = f"first {broken[0]}" if broken else "no tensor at all"
        raise DataError(f"{folder}: A and B factors{_and_magnitudes(config)} do not pair up, {names}")


def _and_magnitudes(config: Mapping[str, Any]) -> str:
    return " and magnitudes" if config.get("use_dora") else ""


def _factors(folder: Path, config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor]) -> Factors:
    """The factors with the layer's own scaling. The rank is in the shapes; a config that says another is damaged."""
    rank = int(by_pattern(config.get("rank_pattern"), module, config["r"]))
    if not parts["down"].shape[0] == parts["up"].shape[1] == rank:
        raise DataError(
            f"{folder}: {module} has factors of rank {parts['down'].shape[0]} and {parts['up'].shape[1]}, "
            f"but adapter_config.json says {rank}"
        )
    alpha = by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Factors(parts["down"], parts["up"], scaling, parts.get("magnitude"))


def by_pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value that PEFT takes for this module: that of the first key which matches the end of its name."""
    from peft.utils.other import get_pattern_key

    return (pattern or {}).get(get_pattern_key(list(pattern or {}), module), default)
