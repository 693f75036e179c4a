"""Llama-shaped models with random weights, their 4-bit copies and adapters, written one tensor at a time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.mapped_tensors import NAMES, bytes_of
from finetune.nf4 import pack
from finetune.safetensors_stream import layout, written

Made = tuple[torch.dtype, tuple[int, ...], Callable[[], Tensor]]
"""A tensor to write: its type, its shape, and what makes it."""


@dataclass(frozen=True)
class Shape:
    """A Llama, and into how many files its weights go."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    files: int

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "dtype": "bfloat16",
        }

    def linear(self) -> dict[str, tuple[int, int]]:
        """The seven linear layers of a block: [out, in]."""
        kv = self.hidden // self.heads * self.key_heads
        square = (self.hidden, self.hidden)
        attention = {
            "q_proj": square,
            "k_proj": (kv, self.hidden),
            "v_proj": (kv, self.hidden),
            "o_proj": square,
        }
        up, down = (self.inner, self.hidden), (self.hidden, self.inner)
        found = {f"self_attn.{name}": shape for name, shape in attention.items()}
        return found | {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """All tensors, in the order of the network."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in self.linear().items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"model.layers.{layer}.{norm}.weight"] = (self.hidden,)
        found["model.norm.weight"] = (self.hidden,)
        return found if self.tied else found | {"lm_head.weight": (self.vocabulary, self.hidden)}


LARGE = Shape(4096, 14336, 32, 32, 8, 128256, tied=False, files=4)
MIDDLE = Shape(2048, 8192, 16, 32, 8, 128256, tied=True, files=1)
SMALL = Shape(512, 1536, 8, 8, 4, 16000, tied=False, files=4)
SMALLER = Shape(512, 1536, 4, 8, 4, 16000, tied=True, files=1)


SHAPES = {"8B": LARGE, "1B": MIDDLE, "small": SMALL, "smaller": SMALLER}


class Weights:
    """The same random values for every tensor of a kind; quantised once each by the repo's own packing."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.pool = (torch.randn(1 << 24) * 0.02).to(torch.bfloat16)
        self.shape, self.packed = shape, dict[str, dict[str, Tensor]]()

    def plain(self, name: str) -> dict[str, Made]:
        """A tensor in bf16."""
        size = self.shape.tensors()[name]
        count = size[0] * (size[1] if len(size) > 1 else 1)
        return {
            name: (
                torch.bfloat16,
                size,
                lambda: self.pool.repeat(-(-count // len(self.pool)))[:count].view(size),
            )
        }

    def nf4(self, name: str) -> dict[str, Made]:
        """A linear layer's weight in 4 bits, anything else in bf16."""
        if "proj" not in name:
            return self.plain(name)
        kind = name.split(".", 3)[3]
        if kind not in self.packed:
            found = pack(name, self.plain(name)[name][2](), True)
            self.packed[kind] = {part.removeprefix(name): value for part, value in found.items()}
        parts = self.packed[kind].items()
        return {
            name + part: (value.dtype, tuple(value.shape), lambda value=value: value) for part, value in parts
        }


def build(shape: Shape, folder: Path) -> None:
    """base/, base-nf4/ and adapter/ of this shape."""
    weights = Weights(shape)
    for kind, make in (("base", weights.plain), ("base-nf4", weights.nf4)):
        (folder / kind).mkdir()
        more = {"quantization_config": {"load_in_4bit": True}} if kind != "base" else {}
        (folder / kind / "config.json").write_text(json.dumps(shape.config() | more))
        files: dict[str, str] = {}
        for number, names in enumerate(parted(shape), 1):
            several = f"model-{number:05}-of-{shape.files:05}.safetensors"
            file = several if shape.files > 1 else "model.safetensors"
            tensors = {part: made for name in names for part, made in make(name).items()}
            write_file(folder / kind / file, tensors)
            files |= dict.fromkeys(tensors, file)
        if shape.files > 1:
            (folder / kind / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    build_adapter(shape, folder / "adapter")


def parted(shape: Shape) -> list[list[str]]:
    """The tensors' names in as many parts of like size as there are files."""
    sizes = {name: size[0] * (size[1] if len(size) > 1 else 1) for name, size in shape.tensors().items()}
    parts: list[list[str]] = [[] for _ in range(shape.files)]
    done, total = 0, sum(sizes.values())
    for name, size in sizes.items():
        parts[min(done * shape.files // total, shape.files - 1)].append(name)
        done += size
    return parts


def write_file(path: Path, tensors: Mapping[str, Made]) -> None:
    """One safetensors file, one tensor in memory at a time."""
    header, entries = layout((name, NAMES[dtype], shape) for name, (dtype, shape, _) in tensors.items())
    with written(path) as sink:
        sink.put(memoryview(header))
        for entry in entries:
            sink.put(bytes_of(tensors[entry.name][2]().contiguous()))


def build_adapter(shape: Shape, folder: Path) -> None:
    """An adapter of rank 16 on every linear layer, as PEFT saves it."""
    folder.mkdir()
    found = {}
    for layer in range(shape.layers):
        for name, (out, width) in shape.linear().items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            found[f"{key}.lora_A.weight"] = torch.randn(16, width) / 64
            found[f"{key}.lora_B.weight"] = torch.randn(out, 16) / 64
    save_file(found, folder / "adapter_model.safetensors")
    targets = [name.split(".")[1] for name in shape.linear()]
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
