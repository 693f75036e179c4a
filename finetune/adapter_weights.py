"""What PEFT saved of an adapter, and what it makes of a weight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import DataError

PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterWeights:
    """LoRA factors by the base's module name, and the factor alpha / r of their product."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: float

    def delta(self, module: str) -> Tensor:
        """B A alpha / r in fp32 (LoRA, arXiv 2106.09685, section 4.1); shape [out, in]."""
        down, up = self.factors[module]
        return (up.float() @ down.float()) * self.scaling


def read_adapter(folder: Path) -> AdapterWeights:
    """The plain LoRA weights that PEFT saved. Raises DataError on anything a merge would lose."""
    config = json.loads((folder / "adapter_config.json").read_text())
    lost = [
        key
        for key in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")
        if config.get(key)
    ]
    if lost or config.get("bias", "none") != "none":
        raise DataError(
            f"{folder}: the adapter uses {', '.join(lost) or 'bias'}, which this merge does not know"
        )
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, factor = name.removeprefix(PREFIX).rpartition(".lora_")
        if factor not in ("A.weight", "B.weight"):
            raise DataError(f"{folder}: tensor {name} is not a LoRA factor, so a merge would lose it")
        (down if factor == "A.weight" else up)[module] = tensor
    if down.keys() != up.keys() or not down:
        raise DataError(f"{folder}: {len(down)} A and {len(up)} B factors do not pair up")
    return AdapterWeights(
        {name: (down[name], up[name]) for name in sorted(down)}, config["lora_alpha"] / config["r"]
    )
