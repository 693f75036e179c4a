"""LoRA on a linear layer in one autograd node: no copy, no scaling and no sum at the layer's full width.

PEFT 0.21.2 clones the output of a 4-bit layer, scales the product of the adapter at full width and adds it in another
pass (tuners/lora/bnb.py, layer.py); its backward pass does the same again. Here the adapter's product is accumulated
into the layer's own output and into its input's gradient, as Unsloth's LoRA_W does. The sum is rounded once, not three
times.
"""

from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.bnb import Linear4bit
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from finetune.nf4 import keep_weight, kept_weight, weight_of

KEPT_BYTES = 2**30
"""Of weights in bf16 that a CPU keeps beside the 4-bit ones, all layers together; a larger model keeps none."""


class LowRankLinear(Function):
    """x W^T + scaling (z A^T) B^T, where z is x, or x after dropout."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor, down: Tensor, up: Tensor, frozen: tuple[Any, float]
    ) -> Tensor:
        """`frozen` are the layer of W and its bias, plain or in 4 bits, and scaling; `down` is A, `up` is B."""
        (layer, scaling), down, up = frozen, down.to(x.dtype), up.to(x.dtype)
        kept = kept_weight(layer, x.dtype)
        out: Tensor = layer(x) if kept is None else linear(x, kept, layer.bias)
        inner = z.flatten(0, -2) @ down.t()
        out.view(-1, out.shape[-1]).addmm_(inner, up.t(), alpha=scaling)
        ctx.save_for_backward(z, inner, down, up)
        ctx.layer, ctx.scaling, ctx.shared = layer, scaling, z is x
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients of x, z, A and B."""
        z, inner, down, up = ctx.saved_tensors
        shape, grad, of_x, of_z = z.shape, grad.flatten(0, -2), None, None
        of_inner = (grad @ up).mul_(ctx.scaling)
        of_down = of_inner.t() @ z.flatten(0, -2)
        of_up = (grad.t() @ inner).mul_(ctx.scaling)
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight_of(ctx.layer).to(grad.dtype)
            if ctx.shared:
                of_x.addmm_(of_inner, down)
            of_x = of_x.view(shape)
        if ctx.needs_input_grad[1] and not ctx.shared:
            of_z = (of_inner @ down).view(shape)
        return of_x, of_z, of_down, of_up, None


def _forward(self: Any, x: Tensor, *args: Any, **given: Any) -> Tensor:
    """The adapted output; PEFT's own way where several adapters, a variant or two precisions meet."""
    fused = None if args or given else _fused(self, x)
    out: Tensor = super(type(self), self).forward(x, *args, **given) if fused is None else fused
    return out


def _fused(layer: Any, x: Tensor) -> Tensor | None:
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1:
        return None
    name, device = names[0], x.device.type
    if name in layer.lora_variant or layer.lora_bias[name]:
        return None
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    if torch.is_autocast_enabled(device):
        known = x.dtype is torch.get_autocast_dtype(device)
    else:
        known = x.dtype == down.dtype == up.dtype
    if not known:
        return None
    frozen = layer.base_layer, layer.scaling[name]
    out: Tensor = LowRankLinear.apply(x, layer.lora_dropout[name](x), down, up, frozen)
    return out


class FusedLinear4bit(Linear4bit):  # type: ignore[misc]
    """PEFT's adapter of a 4-bit layer."""

    forward = _forward


class FusedLinear(lora.Linear):  # type: ignore[misc]
    """PEFT's adapter of a plain linear layer."""

    forward = _forward


FUSED = {Linear4bit: FusedLinear4bit, lora.Linear: FusedLinear}


def fuse_lora(network: Any) -> None:
    """Let every LoRA layer of this network compute in one node."""
    for module in network.modules():
        module.__class__ = FUSED.get(type(module), type(module))


def keep_weights(network: Any, deeper: float = 1.0) -> None:
    """Dequantise the 4-bit weights below adapters once instead of twice a step, where a model is small: same values.

    `deeper`: how many times as many layers the model has of which `network` is a shallow copy.
    """
    layers = [module.base_layer for module in network.modules() if type(module) is FusedLinear4bit]
    if deeper * sum(2 * layer.in_features * layer.out_features for layer in layers) <= KEPT_BYTES:
        for layer in layers:
            keep_weight(layer)


def cast_inputs(network: Any, cast: bool) -> None:
    """Let PEFT cast LoRA's inputs to the precision of its factors, or not, where it computes itself.

    It leaves that out under autocast, which casts back at once, but asks only for CUDA's (peft 0.21.2, lora/bnb.py):
    on a CPU the values are the same without, in 13 % less time. Outside of autocast nothing else makes the two meet.
    """
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = cast
