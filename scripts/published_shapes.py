"""The models of published runs in the words of their config.json: rows give sizes, the family gives the rest."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from finetune.config.load import CONF


class UnexpressedError(Exception):
    """A run that the simulation has no words for, with the reason."""


SIZES = ("h", "i", "L", "V", "n_heads", "n_kv")
SHAPES: dict[str, dict[str, Any]] = {
    # torchtune/models/llama3_2/_model_builders.py@2cb2470f
    "llama-3.2-3b": {"h": 3072, "i": 8192, "L": 28, "V": 128256, "n_heads": 24, "n_kv": 8, "tied": True},
    # litgpt/config.py@26857050
    "stablelm-base-alpha-3b": {"h": 4096, "i": 16384, "L": 16, "V": 50688, "n_heads": 32, "n_kv": 32},
}
"""Of models whose rows state none and that no record of conf/model has."""
TUNED = ("-instruct", "-chat", "-hf", "-it", "-v0.1", "-v0.3")
"""What names add to the same shape."""


def architecture_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The model's shape in the words of config.json. Raises UnexpressedError where sizes are missing."""
    name = str(row["model"]).lower()
    arch = row["arch"] or SHAPES.get(name.split("/")[-1])
    if arch is None and (recorded := _recorded(name)) is not None:
        return recorded
    if not isinstance(arch, Mapping):
        raise UnexpressedError(f"no shape is stated, and no record of conf/model is {row['model']}")
    bad = [key for key in SIZES if type(arch.get(key)) is not int or arch[key] <= 0]
    if bad:
        raise UnexpressedError(f"the architecture lacks {', '.join(bad)}, or it is no whole number above 0")
    family = next((build for words, build in FAMILIES.items() if any(word in name for word in words)), _llama)
    return family(arch)


def _recorded(name: str) -> dict[str, Any] | None:
    """The shape of the record whose weights have this name, instruction-tuned or not."""
    for path in sorted(CONF.glob("model/*.yaml")):
        found: Any = OmegaConf.to_container(OmegaConf.load(path))
        if _bare(str(found["base"].get("repo"))) == _bare(name):
            return dict(found["architecture"])
    return None


def _bare(name: str) -> str:
    name = name.lower().split("/")[-1].removeprefix("meta-")
    for ending in TUNED * 2:
        name = name.removesuffix(ending)
    return name


def _llama(arch: Mapping[str, Any], kind: str = "llama") -> dict[str, Any]:
    facts = {
        "model_type": kind,
        "hidden_size": arch["h"],
        "intermediate_size": arch["i"],
        "num_hidden_layers": arch["L"],
        "num_attention_heads": arch["n_heads"],
        "num_key_value_heads": arch["n_kv"],
        "vocab_size": arch["V"],
        "tie_word_embeddings": bool(arch.get("tied")),
    }
    return facts | ({"head_dim": arch["head_dim"]} if arch.get("head_dim") else {})


def _mixtral(arch: Mapping[str, Any]) -> dict[str, Any]:
    experts, chosen = arch.get("n_experts") or 8, arch.get("experts_per_tok") or 2
    return _llama(arch, "mixtral") | {"num_local_experts": experts, "num_experts_per_tok": chosen}


def _neox(arch: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _llama(arch, "gpt_neox").items() if key != "num_key_value_heads"}


def _gemma(arch: Mapping[str, Any]) -> dict[str, Any]:
    """Heads are wider than the hidden states' share of them: 256 (transformers, GemmaConfig)."""
    return _llama({"head_dim": 256, **arch, "tied": arch.get("tied", True)}, "gemma")


def _falcon(arch: Mapping[str, Any]) -> dict[str, Any]:
    """Two matrices in the MLP; one key-value head is the older form (7B), more are the newer one (40B, 180B)."""
    facts = _llama(arch, "falcon")
    shared = facts.pop("num_key_value_heads")
    inner = facts.pop("intermediate_size")
    newer = {"new_decoder_architecture": shared > 1, "multi_query": shared == 1, "num_kv_heads": shared}
    return facts | newer | {"ffn_hidden_size": inner, "parallel_attn": True, "bias": False, "alibi": False}


def _bigcode(arch: Mapping[str, Any]) -> dict[str, Any]:
    facts = _llama(arch, "gpt_bigcode")
    inner, shared = facts.pop("intermediate_size"), facts.pop("num_key_value_heads")
    return facts | {"n_inner": inner, "multi_query": shared == 1}


FAMILIES = {
    ("mixtral", "8x7b", "8x22b"): _mixtral,
    ("stablelm-base-alpha", "pythia", "neox"): _neox,
    ("codegemma", "gemma-2b", "gemma-7b"): _gemma,
    ("falcon",): _falcon,
    ("santacoder", "bigcode", "starcoderbase"): _bigcode,
    ("phi-1", "phi-2"): lambda arch: _llama(arch, "phi"),
    ("phi-3", "phi3"): lambda arch: _llama(arch, "phi3"),
    ("qwen2",): lambda arch: _llama(arch, "qwen2"),
    ("gemma-2-", "gemma2"): lambda arch: _llama({**arch, "tied": True}, "gemma2"),
    ("olmo-2", "olmo2"): lambda arch: _llama(arch, "olmo2"),
}
"""By words in the model's name; anything else is built as a Llama."""
