"""The shape of a model as plain facts, checked before anything is built from them: no weights, no network."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from finetune.config.messages import closest
from finetune.config.model import ModelConfig
from finetune.errors import ConfigError, DataError

KEY = "model.architecture"
NEEDED = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Where one is left out, the library's default would silently stand for it: another model."""
SIZES = (
    "hidden_size intermediate_size ffn_hidden_size num_hidden_layers num_attention_heads num_key_value_heads "
    "num_kv_heads head_dim vocab_size max_position_embeddings sliding_window num_local_experts n_routed_experts "
    "num_experts_per_tok moe_intermediate_size q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim"
).split()
LARGEST = 10_000_000
REFUSALS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What config classes raise on facts they cannot hold, beside their validation's own error."""
ROTARY = ("rope_theta", "rope_scaling")
"""Keys of published config.json files that transformers 5 gathers into rope_parameters."""


def architecture_of(model: ModelConfig, base_folder: Path | None) -> dict[str, Any]:
    """The facts to plan with, for `config_of`: the record's, or the base's config.json where the record has none.

    Raises ConfigError where neither is there, where the record is impossible, and key by key where the base
    differs from it; DataError where config.json cannot be read.
    """
    found = None if base_folder is None else _read(base_folder / "config.json")
    if model.architecture:
        require_possible(model.architecture)
        if base_folder is not None and found is not None:
            _require_same(model.architecture, found, base_folder)
        return dict(model.architecture)
    if found is None:
        raise ConfigError(
            f"{KEY} is empty and the base of model={model.name} is not fetched; fetch it, or copy the facts of its "
            "config.json into the model's file"
        )
    return found


def require_possible(architecture: Mapping[str, Any]) -> None:
    """Raises ConfigError with a line for every key of a record that is unknown, missing or impossible."""
    problems = [*unknown_settings(architecture), *shape_problems(architecture)]
    if problems:
        raise ConfigError(problems)


def config_of(architecture: Mapping[str, Any], where: str = KEY) -> Any:
    """The transformers config of these facts. Raises ConfigError, with the library's reason, where it refuses them."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    kind = architecture.get("model_type")
    try:
        return AutoConfig.for_model(**architecture)
    except (StrictDataclassError, *REFUSALS) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ConfigError(f"{where} cannot be built as model_type={kind}: {reason[:200]}") from None


def unknown_settings(architecture: Mapping[str, Any]) -> list[str]:
    """A line for each key that is no setting of the model type; transformers would take it and do nothing."""
    from transformers import CONFIG_MAPPING

    kind = str(architecture.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return [f"{KEY}.model_type={kind} is not known to transformers{closest(kind, list(CONFIG_MAPPING))}"]
    schema = CONFIG_MAPPING[kind]
    known = ["model_type", *(item.name for item in fields(schema)), *schema.attribute_map]
    known += ROTARY if "rope_parameters" in known else ()
    return [
        f"{KEY}.{key} is not a setting of model_type={kind}{closest(key, known, f'{KEY}.')}"
        for key in architecture
        if key not in known
    ]


def shape_problems(architecture: Mapping[str, Any]) -> list[str]:
    """A line for each fact that no model can have: missing, not a whole number, out of range, not divisible."""
    problems = [
        f"{KEY}.{key} is missing; copy it from the model's config.json"
        for key in NEEDED
        if architecture.get(key) is None
    ]
    sizes = {key: architecture[key] for key in SIZES if architecture.get(key) is not None}
    problems += [
        f"{KEY}.{key}={value} must be a whole number from 1 to {LARGEST}"
        for key, value in sizes.items()
        if type(value) is not int or not 0 < value <= LARGEST
    ]
    theta = architecture.get("rope_theta")
    if theta is not None and (type(theta) not in (int, float) or not 0 < theta < math.inf):
        problems.append(f"{KEY}.rope_theta={theta} must be a number above 0")
    return problems or list(_indivisible(sizes))


def _indivisible(sizes: Mapping[str, int]) -> Iterator[str]:
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    if "head_dim" not in sizes and hidden % heads:
        yield (
            f"{KEY}.hidden_size={hidden} is not a multiple of {KEY}.num_attention_heads={heads}; correct one of them, "
            "or state head_dim"
        )
    for key in ("num_key_value_heads", "num_kv_heads"):
        if key in sizes and heads % sizes[key]:
            yield f"{KEY}.num_attention_heads={heads} is not a multiple of {KEY}.{key}={sizes[key]}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; the base is not a model folder, fetch it again") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise DataError(f"{path} is not JSON; fetch the base again") from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise DataError(f"{path} names no model_type; fetch the base again")
    return found


def _require_same(recorded: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """Compare as transformers reads them: published files leave defaults out and spell rotary keys in two ways."""
    text = found.get("text_config") or {}
    if text.get("model_type") == recorded["model_type"]:
        found = text  # a text-only record of a model that also sees
    if found["model_type"] != recorded["model_type"]:
        differing = ["model_type"]
        values = {"model_type": found["model_type"]}
    else:
        ours, theirs = config_of(recorded), config_of(found, f"{folder / 'config.json'}")
        values = {key: _value(theirs, key) for key in recorded}
        differing = [key for key in recorded if _value(ours, key) != values[key]]
    if differing:
        raise ConfigError(
            [
                f"{KEY}.{key}={recorded[key]}, but {folder / 'config.json'} says {values[key]}; use the base that the "
                "model's file names, or correct the file"
                for key in differing
            ]
        )


def _value(config: Any, key: str) -> Any:
    if key not in ROTARY:
        return getattr(config, key)
    rotary = config.rope_parameters
    rotary = rotary.get("full_attention", rotary)  # Gemma 3 keeps one set a kind of layer
    if key == "rope_theta":
        return rotary["rope_theta"]
    return {name: value for name, value in rotary.items() if name != "rope_theta"}


def parameter_count(architecture: Mapping[str, Any]) -> int:
    """Parameters of the model, tied ones once, counted on tensors without memory."""
    import torch
    from transformers import AutoModelForCausalLM, initialization

    with torch.device("meta"), initialization.no_init_weights():
        network = AutoModelForCausalLM.from_config(config_of(architecture))
    network.tie_weights()
    return sum(parameter.numel() for parameter in network.parameters())
