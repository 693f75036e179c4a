"""The base in 4 bits with its tokenizer, with or without an adapter."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import artifacts
from finetune.artifacts import Artifact, Spec, input_record
from finetune.chat import Renderer
from finetune.config import recorded
from finetune.config.model import Attention, ModelConfig, Quantisation
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import PathsConfig
from finetune.console import quiet_libraries, say
from finetune.errors import ConfigError, DataError, MachineError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter"
"""Subfolder of an adapter run that PEFT reads and writes."""
CHAMPION = "champion"
"""PEFT's name for a second adapter, that in service today; the first is PEFT's `default`."""


@dataclass
class Loaded:
    """A model in evaluation mode, its tokenizer, and the renderer of its prompts."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    base: str | None = None
    """What the base's weights are: the content of the artifact they were read from. None: nobody knows."""

    def context_tokens(self) -> int | None:
        """The longest sequence that the model was made for, prompt and answer together."""
        return context_tokens(self.model.config.to_dict())


def context_tokens(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that a model was made for; None where its config.json does not say."""
    text = config.get("text_config") or {}
    found = config.get("max_position_embeddings") or text.get("max_position_embeddings")
    return int(found) if found else None


@dataclass(frozen=True)
class TrainedOn:
    """The base of an adapter: as it was pinned, and as its weights are read, which is in 4 bits where that was kept."""

    pinned: Artifact
    read: Artifact


def prepare_libraries() -> None:
    """Set what must hold before any model is built.

    bitsandbytes repacks 4-bit weights in place at the first no-grad forward on CPUs with AVX512-BF16;
    gradients and dequantisation are silently wrong afterwards (bitsandbytes 0.50.2, nn/modules.py:613).
    """
    quiet_libraries()
    import bitsandbytes as bnb

    bnb.nn.modules.has_avx512bf16 = lambda: False


def load_base(base: Artifact, model: ModelConfig, hardware: HardwareConfig) -> Loaded:
    """The base in 4 bits on the configured device: a pinned one quantised while loading, a quantised one as it is.

    Both give the same network. Raises MachineError where the device is missing, DataError where the base cannot be
    read.
    """
    import torch

    place = {"": "cuda:0" if hardware.device is Device.cuda else "cpu"}
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": place}
    if not is_quantised(base.folder):
        options["quantization_config"] = quantisation_config(model)
    loaded = _load(base.folder, model, hardware, options)
    return replace(loaded, base=base.manifest.content if base.manifest else None)


def is_quantised(folder: Path) -> bool:
    """Whether a base's weights stand in its files in 4 bits; a pinned base's never do."""
    return "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def quantised_spec(model: ModelConfig, pinned: Artifact) -> Spec:
    """What decides the folder of a quantised base: the pinned weights, how they are quantised, and by which library."""
    how = {
        "quantisation": model.quantisation,
        "double_quantisation": model.double_quantisation,
        "block_size": 64,
        "bitsandbytes": importlib.metadata.version("bitsandbytes"),
    }
    return Spec("quantised", 1, model.name, {"quantised": how}, {"base": input_record(pinned)})


def quantised_base(paths: PathsConfig, model: ModelConfig, pinned: Artifact) -> Artifact | None:
    """The quantised base that was made of this pinned one as `model` asks; None where there is none.

    Raises DataError where a file of it is missing or has changed.
    """
    try:
        return artifacts.open_run(paths, "quantised", model.name, quantised_spec(model, pinned).run())
    except ConfigError:
        return None


def trained_on(paths: PathsConfig, adapter: Artifact, pinned: Artifact) -> TrainedOn:
    """The base of a trained adapter, read from the very quantised base that training read, else from the pinned one."""
    model = recorded(ModelConfig, adapter.manifest.config["model"])
    made = adapter.manifest.facts.get("quantised_base")
    try:
        kept = artifacts.open_run(paths, "quantised", made["name"], made["run"]) if made else None
    except ConfigError:
        kept = None
    if made and (kept is None or kept.manifest.content != made["content"]):
        say(
            f"note: the quantised base {made['run']} that the adapter was trained on is "
            f"{'not there' if kept is None else 'another one now'}; quantising {pinned.folder} while loading"
        )
        return TrainedOn(pinned, pinned)
    return TrainedOn(pinned, kept or quantised_base(paths, model, pinned) or pinned)


def load_plain(folder: Path, model: ModelConfig, hardware: HardwareConfig, dtype: "torch.dtype") -> Loaded:
    """A model folder without quantisation; on CUDA what does not fit waits in host memory."""
    place = "auto" if hardware.device is Device.cuda else {"": "cpu"}
    return _load(folder, model, hardware, {"dtype": dtype, "device_map": place})


def _load(folder: Path, model: ModelConfig, hardware: HardwareConfig, options: dict[str, Any]) -> Loaded:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prepare_libraries()
    require_device(hardware)
    if hardware.device is Device.cpu:
        # torch's flash kernel for CPUs spends 26 ms a layer in its bf16 backward (16 rows of 100 tokens); the
        # plain one works in fp32 and trains 1.2x as fast. Eager is faster still, but rounds scores to bf16.
        torch.backends.cuda.enable_flash_sdp(False)
    options["attn_implementation"] = attention(model.attention, hardware.device, options["dtype"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        network, found = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        line = str(error).strip().split("\n")[0]
        raise DataError(
            f"{folder}: transformers cannot load this base ({type(error).__name__}: {line})"
        ) from None
    lacking = sorted(found["missing_keys"])
    if lacking:  # the library would go on with random numbers and a warning
        raise DataError(
            f"{folder}: {len(lacking)} weights of the model are not in its files, first {lacking[0]}"
        )
    ends = _stop_at_ends(network, tokenizer)
    _give_head_contiguous_states(network)
    return Loaded(network.eval(), tokenizer, Renderer(tokenizer, model.date_string, ends))


def _stop_at_ends(network: Any, tokenizer: Any) -> list[str]:
    """Leave of the base's generation settings only the tokens that end an answer, and return these.

    Settings such as Qwen2.5's repetition_penalty would make a greedy answer something else than the argmax.
    """
    from transformers import GenerationConfig

    ids = _end_ids(network.generation_config.eos_token_id, tokenizer)
    pad = tokenizer.pad_token_id  # masked out, so an end token serves where there is none
    network.generation_config = GenerationConfig(
        eos_token_id=ids, pad_token_id=ids[0] if pad is None else pad
    )
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]


def _end_ids(found: int | list[int] | None, tokenizer: Any) -> list[int]:
    ids = {*(found if isinstance(found, list) else [found]), tokenizer.eos_token_id} - {None}
    if not ids:
        raise DataError(
            "neither the base's tokenizer nor its generation config names an end token; it never stops"
        )
    return sorted(ids)


def read_renderer(folder: Path, model: ModelConfig) -> Renderer:
    """The renderer that training will use, from the base's small files alone: no weights are read."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = GenerationConfig if (folder / "generation_config.json").is_file() else AutoConfig
        found = getattr(settings.from_pretrained(folder), "eos_token_id", None)
    except (ValueError, KeyError, OSError) as error:
        line = str(error).strip().split("\n")[0]
        raise DataError(
            f"{folder}: transformers cannot read this tokenizer ({type(error).__name__}: {line})"
        ) from None
    ends = [str(token) for token in tokenizer.convert_ids_to_tokens(_end_ids(found, tokenizer))]
    return Renderer(tokenizer, model.date_string, ends)


def _give_head_contiguous_states(network: Any) -> None:
    """transformers hands the head a slice (logits_to_keep); torch's CPU matmul copies the whole head once a row
    for such a slice: 2.1 of 3.0 s of a forward of 32 rows of the 135M model.
    """
    network.get_output_embeddings().register_forward_pre_hook(lambda _, states: (states[0].contiguous(),))


def attach_trained(loaded: Loaded, adapter: Artifact) -> Loaded:
    """The same model with a trained adapter on it; `model.disable_adapter()` gives the base back."""
    from peft import PeftModel

    from finetune.dora import use_exact_dora

    network = PeftModel.from_pretrained(loaded.model, adapter.path(ADAPTER))
    use_exact_dora(network)
    return replace(loaded, model=network.eval())


def attach_champion(loaded: Loaded, adapter: Artifact) -> None:
    """Load a second adapter beside the one that is on the model; it does nothing until it is `activated`."""
    from finetune.dora import use_exact_dora

    loaded.model.load_adapter(adapter.path(ADAPTER), CHAMPION)
    use_exact_dora(loaded.model)


@contextmanager
def activated(loaded: Loaded, name: str | None) -> Iterator[None]:
    """The model with the adapter of this name instead of its first; with the first where it is None."""
    first = loaded.model.active_adapter
    if name is not None:
        loaded.model.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        loaded.model.set_adapter(first, inference_mode=True)


def quantisation_config(model: ModelConfig) -> Any:
    """transformers' BitsAndBytesConfig for the model section; None without quantisation."""
    import torch
    from transformers import BitsAndBytesConfig

    if model.quantisation is Quantisation.none:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.quantisation.name,
        bnb_4bit_use_double_quant=model.double_quantisation,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def quantised_modules(network: Any) -> list[str]:
    """Names of the 4-bit linear layers as the base's own files name them, sorted."""
    import bitsandbytes as bnb

    names = [name for name, module in network.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    return sorted(name.removeprefix("base_model.model.").removesuffix(".base_layer") for name in names)


def attention(choice: Attention, device: Device, dtype: "torch.dtype") -> str:
    """transformers' attn_implementation; what flash_attention_2 cannot do (fp32) falls to sdpa."""
    if choice is Attention.auto:
        flash = device is Device.cuda and importlib.util.find_spec("flash_attn") is not None
        choice = Attention.flash_attention_2 if flash else Attention.sdpa
    if choice is Attention.flash_attention_2 and dtype.itemsize != 2:
        choice = Attention.sdpa
    return choice.name


def require_device(hardware: HardwareConfig) -> None:
    """Raise MachineError where the configured device is not there."""
    import torch

    if hardware.device is Device.cuda and not torch.cuda.is_available():
        raise MachineError(
            f"hardware={hardware.name} needs a CUDA device and torch sees none; run on such a machine, "
            "or set hardware=cpu for a small model"
        )
    if hardware.device is Device.cuda and torch.cuda.device_count() > 1:
        raise MachineError(
            f"{torch.cuda.device_count()} GPUs are visible and one is used; set CUDA_VISIBLE_DEVICES=0"
        )
