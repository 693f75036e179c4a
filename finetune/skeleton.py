"""What loading will do with each tensor of a base, read from a network without content: pack, cast or keep it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Conv1D, initialization
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.modeling_utils import local_torch_dtype
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

from finetune.config.model import ModelConfig
from finetune.model import prepare_libraries, quantisation_config, quantised_modules

DTYPE = torch.bfloat16
"""What `load_base` loads in."""


@dataclass(frozen=True)
class Treatment:
    """Names of the tensors that loading quantises, and the dtypes that it casts the tensors to that it knows."""

    packed: frozenset[str]
    dtypes: dict[str, torch.dtype]

    def cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as loading casts it: transformers does not cast what comes with a quantised file."""
        known = tensor.is_floating_point() and name in self.dtypes
        return tensor.to(self.dtypes[name]) if known else tensor


def skeleton(folder: Path, model: ModelConfig) -> Any:
    """The network that `load_base` builds before it reads a weight, its 4-bit layers in place; no memory."""
    prepare_libraries()
    config = AutoConfig.from_pretrained(folder)
    quantizer = AutoHfQuantizer.from_config(quantisation_config(model), pre_quantized=False)
    with local_torch_dtype(DTYPE), torch.device("meta"), initialization.no_init_weights():
        network = AutoModelForCausalLM.from_config(config, dtype=DTYPE)
        quantizer.preprocess_model(network, dtype=DTYPE, device_map={"": "cpu"})
    return network


def treatment(network: Any, names: Iterable[str]) -> Treatment:
    """What loading does with the tensors of these names, which are those of the base's files."""
    conversions = get_model_conversion_mapping(network)
    renamings = [item for item in conversions if isinstance(item, WeightRenaming)]
    converters = [item for item in conversions if isinstance(item, WeightConverter)]
    state, layers = network.state_dict(), set(quantised_modules(network))
    packed, dtypes = set(), {}
    for name in names:
        target, converted = rename_source_key(name, renamings, converters, network.base_model_prefix, state)
        if target.removesuffix(".weight") in layers and converted is None:
            packed.add(name)
            dtypes[name] = _kept_in(network, target) or DTYPE
        elif target in state:
            dtypes[name] = _kept_in(network, target) or state[target].dtype
    return Treatment(frozenset(packed), dtypes)


def _kept_in(network: Any, target: str) -> torch.dtype | None:
    """The precision that the family keeps a parameter in whatever the rest is loaded in, such as a router's bias."""
    plan = network._get_dtype_plan(DTYPE).items()
    found = [dtype for pattern, dtype in plan if re.search(pattern.replace("*", ".*"), target)]
    return found[0] if found else None


def why_not(network: Any, found: Treatment) -> str | None:
    """Why files quantised ahead would not load to the same network as quantising while loading; None where they do."""
    for name, module in network.named_modules():
        if getattr(module, "source_cls", None) is Conv1D:
            return f"{name} is a transposed layer (Conv1D)"
        if type(module).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION:
            return f"{name} ({type(module).__name__}) is another layer in a model that is quantised already"
    if not found.packed:
        return "bitsandbytes quantises none of its layers"
    lacking = len(quantised_modules(network)) - len(found.packed)
    if lacking:
        return f"{lacking} of its linear layers do not stand one by one in its files"
    return None
