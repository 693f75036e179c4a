"""The trained adapter as the two files that PEFT and vLLM read, the same bytes for the same weights."""

import json
from dataclasses import replace
from typing import Any

from safetensors.torch import save

from finetune.artifacts import Output
from finetune.config.model import ModelConfig
from finetune.model import ADAPTER


def write_adapter(network: Any, model: ModelConfig, output: Output) -> None:
    """Write `adapter/adapter_model.safetensors` and `adapter_config.json` of a PEFT model into a run folder.

    PEFT's own save_pretrained names a local path and lists its targets in another order each time, so that equal
    adapters have unequal files.
    """
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(network, save_embedding_layers=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    output.write_bytes(f"{ADAPTER}/adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    base = model.base.repo or model.name
    config = replace(
        network.peft_config["default"], base_model_name_or_path=base, inference_mode=True
    ).to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    output.write_text(f"{ADAPTER}/adapter_config.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")
