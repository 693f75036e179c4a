"""The configured model with its adapter, as tensors without content: real classes, real quantised layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from finetune.architecture import config_of
from finetune.config.plan import Device
from finetune.config.schema import Checkpointing, LoraSettings
from finetune.dora import magnitudes_without_content, use_exact_dora
from finetune.fused import fuse_step
from finetune.fused.lora import cast_inputs, keep_weights
from finetune.methods import lora_config
from finetune.plan.experts import grouped_experts, unstack_experts
from finetune.plan.kernels import FusedNorm, flash_attention, fused_attention
from finetune.plan.settings import AttentionKernel, Settings, Upcast

BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a scale, scales that share one: bitsandbytes' defaults (functional.quantize_4bit)."""


def build(settings: Settings, layers: int) -> Any:
    """The PEFT model on the meta device, `layers` deep, in training mode."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, initialization

    config = config_of(shallow(settings.architecture, layers))
    attention = _register_kernels(settings, config)
    with torch.device("meta"), initialization.no_init_weights():
        network = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    network.tie_weights()
    if settings.device is Device.cuda:
        network.config._experts_implementation_internal = "hallmark"
    if settings.linear_experts:
        unstack_experts(network)
        _plain_linears(network)
    if settings.fused_ops:
        _fuse_norms(network)
    if settings.quantised:
        _quantise(network, settings)
    with magnitudes_without_content():
        network = get_peft_model(
            network, _lora(network, settings), low_cpu_mem_usage=True
        )  # adapters on meta too
    use_exact_dora(network)
    if settings.fused:
        fuse_step(network, settings.device)
    cast_inputs(network, not settings.autocast)
    return network.train()


def shallow(architecture: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The same architecture with `layers` layers; lists of a fact for each layer are cut."""
    depth = architecture["num_hidden_layers"]
    cut = {
        key: value[:layers] if isinstance(value, list) and len(value) == depth else value
        for key, value in architecture.items()
    }
    return {**cut, "num_hidden_layers": layers}


@contextmanager
def attention_as_in_training(settings: Settings) -> Iterator[None]:
    """Attention takes the path that it takes with real tensors.

    On CUDA torch's own attention is a flash kernel too; on a CPU `finetune.model` switches that kernel off. Whether
    rows are padded transformers reads in their mask, and tensors without content have none.
    """
    from transformers import masking_utils

    flash, ignore = torch.backends.cuda.flash_sdp_enabled(), masking_utils._ignore_causal_mask_sdpa
    sdpa = torch.nn.functional.scaled_dot_product_attention
    if settings.attention is AttentionKernel.flash:
        torch.nn.functional.scaled_dot_product_attention = fused_attention  # type: ignore[assignment]
    elif settings.device is Device.cpu:
        torch.backends.cuda.enable_flash_sdp(False)
    if not settings.padded:
        masking_utils._ignore_causal_mask_sdpa = lambda padding_mask, *args: ignore(None, *args)
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = sdpa
        torch.backends.cuda.enable_flash_sdp(flash)
        masking_utils._ignore_causal_mask_sdpa = ignore


def _register_kernels(settings: Settings, config: Any) -> str:
    """transformers' name of the attention; classes that call torch's own (Falcon) find the kernel there."""
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    packed = settings.rows if settings.packed else 1
    AttentionInterface.register(
        "hallmark", partial(flash_attention, packed=packed, fused_qkv=settings.fused_qkv)
    )
    AttentionMaskInterface.register("hallmark", lambda *_, **__: None)
    ALL_EXPERTS_FUNCTIONS.register("hallmark", grouped_experts)
    if settings.attention is not AttentionKernel.flash:
        return settings.attention.name
    return (
        "hallmark"
        if AutoModelForCausalLM._model_mapping[type(config)]._supports_attention_backend
        else "sdpa"
    )


def _quantise(network: Any, settings: Settings) -> None:
    """Linear layers become bitsandbytes' as transformers chooses them: all but the output head."""
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double_quantised,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    replace_with_bnb_linear(network, get_keys_to_not_convert(network), config)
    network.is_loaded_in_4bit = network.is_quantized = True


def _plain_linears(network: nn.Module) -> None:
    """Classes made from nn.Linear, such as Falcon's, become nn.Linear."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = nn.Linear


def _fuse_norms(network: nn.Module) -> None:
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(FusedNorm.apply, module)


def _lora(network: Any, settings: Settings) -> Any:
    lora = LoraSettings(
        rank=settings.rank,
        dropout=0.1 if settings.dropout else 0.0,
        dora=settings.dora,
        targets=list(settings.targets),
        layers=None if settings.layers is None else list(settings.layers),
        rank_pattern=dict(settings.rank_pattern),
    )
    return lora_config(lora, network)


def give_fake_weights(network: Any, settings: Settings) -> None:
    """Put tensors of the current FakeTensorMode in place of every parameter, quantised where the layer is."""
    import bitsandbytes as bnb

    shared, made = _Shared(), dict[int, nn.Parameter]()
    for name, module in network.named_modules():
        for key, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in made:  # tied weights stay one
                quantised = isinstance(module, bnb.nn.Linear4bit) and key == "weight"
                made[id(old)] = (
                    shared.quantised(module, settings.double_quantised)
                    if quantised
                    else _fake(f"{name}.{key}", old, settings)
                )
            module._parameters[key] = made[id(old)]
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype)
    if settings.fused and settings.device is Device.cpu:
        depth = settings.architecture["num_hidden_layers"]
        keep_weights(network, depth / network.config.get_text_config().num_hidden_layers)


def _fake(name: str, old: nn.Parameter, settings: Settings) -> nn.Parameter:
    """A parameter in the precision in which training holds it."""
    dtype = old.dtype
    if old.requires_grad:
        dtype = torch.float32 if settings.lora_bytes == 4 else torch.bfloat16
    elif settings.upcast is Upcast.all or (settings.upcast is Upcast.norms and "norm" in name):
        dtype = torch.float32
    return nn.Parameter(torch.empty(old.shape, dtype=dtype), old.requires_grad)


class _Shared:
    """The code tables that all quantised weights share."""

    def __init__(self) -> None:
        self.code, self.nested_code, self.offset = torch.empty(16), torch.empty(256), torch.empty(())

    def quantised(self, layer: Any, double: bool) -> nn.Parameter:
        """The 4-bit weight of a layer as bitsandbytes keeps it; Params4bit itself refuses fake tensors."""
        from bitsandbytes.functional import QuantState

        shape = torch.Size((layer.out_features, layer.in_features))
        scales = -(-shape.numel() // BLOCK)
        weight = nn.Parameter(torch.empty((shape.numel() + 1) // 2, 1, dtype=torch.uint8), False)
        common = {"shape": shape, "code": self.code, "blocksize": BLOCK, "dtype": torch.bfloat16}
        if double:
            nested = QuantState(
                absmax=torch.empty(-(-scales // NESTED_BLOCK)),
                blocksize=NESTED_BLOCK,
                code=self.nested_code,
                dtype=torch.float32,
            )
            absmax = torch.empty(scales, dtype=torch.uint8)
            state = QuantState(absmax=absmax, quant_type="nf4", offset=self.offset, state2=nested, **common)
        else:
            state = QuantState(absmax=torch.empty(scales), quant_type="nf4", **common)
        weight.quant_state = state  # type: ignore[attr-defined]
        return weight


def set_checkpointing(network: Any, settings: Settings) -> None:
    """Recompute layers in the backward pass as Trainer and TRL would set it up."""
    from torch.utils.checkpoint import checkpoint
    from trl.models.selective_activation_checkpointing import enable_selective_activation_checkpointing

    base = network.get_base_model()
    if settings.checkpointing is Checkpointing.none:
        return
    if settings.checkpointing is Checkpointing.selective:
        enable_selective_activation_checkpointing(base)
        base.gradient_checkpointing_enable(every_n_layers=settings.checkpoint_every)
    else:
        base.activation_checkpointing_enable(
            {"use_reentrant": settings.reentrant}, every_n_layers=settings.checkpoint_every
        )
    if settings.offload:
        for module in base.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = partial(
                    _offloaded, module._gradient_checkpointing_func or checkpoint
                )


def _offloaded(checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
    """transformers' checkpointing into host memory: the device forgets what is kept until the backward pass."""
    with torch.autograd.graph.saved_tensors_hooks(_forget, _recall):
        return checkpoint(*args, **kwargs)


def _forget(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _recall(facts: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
    return torch.empty(facts[0], dtype=facts[1])
