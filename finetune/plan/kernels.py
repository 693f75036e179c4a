"""GPU kernels that a CPU cannot run, as operators without code: their outputs, their FLOPs, their buffers."""

from math import prod
from typing import Any

import bitsandbytes  # noqa: F401  (registers its operators)
import torch
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

CUDA_FUSED_ROWS = 1536
"""bitsandbytes multiplies up to this many rows without dequantising the weights (0.50.2, backends/cuda/ops.py)."""

# "flash_attn" in its name makes TRL's selective checkpointing keep its output, as it keeps the real one's
LIBRARY = torch.library.Library("hallmark", "DEF")
LIBRARY.define("flash_attn(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
LIBRARY.define(
    "flash_attn_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor sums)"
    " -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define("grouped_product(Tensor x, Tensor weights, bool transposed) -> Tensor")
LIBRARY.define("accumulate_product(Tensor(a!) sum, Tensor a, Tensor b) -> ()")
LIBRARY.define("fold(Tensor tile) -> ()")
OPS = torch.ops.hallmark
SAFE_SOFTMAX = torch.ops.aten._safe_softmax.default


@torch.library.register_fake("hallmark::flash_attn")
def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, tokens, heads, _ = q.shape
    return q.new_empty(batch, tokens, heads, v.shape[-1]), q.new_empty(
        batch, heads, tokens, dtype=torch.float32
    )


@torch.library.register_fake("hallmark::flash_attn_backward")
def _flash_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, sums: Any) -> tuple[Any, Any, Any]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@torch.library.register_fake("hallmark::grouped_product")
def _grouped_product(x: torch.Tensor, weights: torch.Tensor, transposed: bool) -> torch.Tensor:
    return x.new_empty(x.shape[0], weights.shape[2 if transposed else 1])


@torch.library.register_fake("hallmark::accumulate_product")
def _accumulate_product(sum: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:  # noqa: A002
    return None


@torch.library.register_fake("hallmark::fold")
def _fold(tile: torch.Tensor) -> None:
    return None


@register_flop_formula(OPS.flash_attn)
def flash_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Causal: two products over half of the tokens x tokens square. Shapes (batch, tokens, heads, width)."""
    batch, tokens, heads, width = q
    return int(batch * heads * tokens**2 * (width + v[-1]))


@register_flop_formula(OPS.flash_attn_backward)
def _flash_backward_flops(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return 5 * flash_flops(q, k, v) // 2  # five products beside the forward pass's two (arXiv 2307.08691)


@register_flop_formula(OPS.grouped_product)
def _grouped_flops(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return int(2 * x[0] * weights[1] * weights[2])


@register_flop_formula(OPS.accumulate_product)
def _accumulate_flops(sum: Any, a: Any, b: Any, **_: Any) -> int:  # noqa: A002
    return int(2 * a[0] * a[1] * b[1])


@register_flop_formula(torch.ops.bitsandbytes.gemm_4bit)
def _gemm_flops(a: Any, b: Any, shape: Any, *_: Any, **__: Any) -> int:
    return int(2 * prod(a) * shape[0])


def cuda_scratch(func: Any, args: Any) -> int:
    """Bytes inside a CUDA kernel's call: a dequantised weight, flash-attn's fp32 query gradients and expanded keys.

    Sources: bitsandbytes 0.50.2 backends/cuda/ops.py; flash-attn 2 csrc/flash_attn/flash_api.cpp mha_bwd.
    """
    if func._overloadpacket is torch.ops.bitsandbytes.gemm_4bit:
        rows = args[0].numel() // args[0].shape[-1]
        return 2 * prod(args[2]) if rows > CUDA_FUSED_ROWS else 0
    if func._overloadpacket is OPS.flash_attn_backward:
        query, key, value, sums = args[1], args[2], args[3], args[5]
        heads, key_heads = query.shape[2], key.shape[2]
        expanded = (key.nbytes + value.nbytes) * heads // key_heads if heads != key_heads else 0
        return int(4 * query.numel() + sums.nbytes + expanded)
    return 0


def cpu_scratch(func: Any, args: Any) -> int:
    """Bytes inside a CPU operator's call: gemm_4bit's weight and scales, and which scores are -inf.

    Sources: bitsandbytes 0.50.2 backends/default/ops.py; torch 2.13 aten/src/ATen/native/transformers/attention.cpp,
    _safe_softmax.
    """
    if func._overloadpacket is torch.ops.bitsandbytes.gemm_4bit:
        scales = 4 * -(-prod(args[2]) // args[4])
        return int(args[0].itemsize * prod(args[2]) + scales)
    return int(args[0].numel()) if func is SAFE_SOFTMAX else 0


class FlashAttention(Function):
    """Keeps queries, keys, values, output and the sums of the rows; shapes (batch, tokens, heads, width)."""

    @staticmethod
    def forward(ctx: Any, *states: torch.Tensor) -> torch.Tensor:
        """The attended values."""
        out, sums = OPS.flash_attn(*states)
        ctx.save_for_backward(*states, out, sums)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of queries, keys and values."""
        return OPS.flash_attn_backward(grads[0], *ctx.saved_tensors)


def flash_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    packed: int = 1,
    fused_qkv: bool = False,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface over FlashAttention; queries come as (batch, heads, tokens, width).

    `packed` rows stand end to end in each: they attend to themselves alone, and cost no more than apart.
    """
    if fused_qkv:
        key, value = _out_of_one_product(query, key, value)
    # flash-attn takes 16 bits; transformers casts back what an fp32 norm has upcast
    states = [item.transpose(1, 2).to(torch.bfloat16) for item in (query, key, value)]
    attended = FlashAttention.apply(*(item.unflatten(1, (packed, -1)).flatten(0, 1) for item in states))
    return attended.unflatten(0, (-1, packed)).flatten(1, 2), None


def _out_of_one_product(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Keys and values as LitGPT's model.py has them (CausalSelfAttention): a view of the product, or copies for each
    head where heads share them."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if value.untyped_storage().nbytes() > value.nbytes:
        return key, value  # a view already
    return key, OneProduct.apply(value)


class OneProduct(Function):
    """Values as the last third of the output of a product that makes queries and keys too."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        """The values, in a storage three times as large."""
        return value.new_empty(3, *value.shape)[2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Their gradient."""
        return grads[0]


def fused_attention(*states: torch.Tensor, **_: Any) -> torch.Tensor:
    """torch's scaled_dot_product_attention over FlashAttention; states are (batch, heads, tokens, width)."""
    return flash_attention(torch.nn.Identity(), *states[:3])[0].transpose(1, 2)


class FusedNorm(Function):
    """RMSNorm as one Triton kernel: keeps its input and a number a row (unsloth/kernels/rms_layernorm.py)."""

    @staticmethod
    def forward(ctx: Any, norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The normalised states, in the precision of the input."""
        ctx.save_for_backward(hidden, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient of the states; the norm's weight is frozen."""
        return None, torch.empty_like(grads[0])


class InPlaceCrossEntropy(Function):
    """A Triton cross-entropy whose gradient overwrites the logits (unsloth/kernels/cross_entropy_loss.py)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        """A loss without a value."""
        ctx.save_for_backward(logits, logits.new_empty(logits.shape[0], dtype=torch.float32))
        return logits.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The logits themselves."""
        return ctx.saved_tensors[0]


class FusedLinearCrossEntropy(Function):
    """Liger's: chunks whose logits are as large as the hidden states, gradient included (its own ops/)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """A loss without a value; hidden (rows, width), head (vocabulary, width)."""
        rows, width = hidden.shape
        chunk = -(-rows // -(-head.shape[0] // width))
        chunk = 1 << (chunk - 1).bit_length()
        gradient = torch.empty_like(hidden)
        for part, target in zip(hidden.split(chunk), gradient.split(chunk), strict=True):
            logits = part @ head.t()
            target.copy_(logits @ head)
            del logits
        ctx.save_for_backward(gradient)
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient that the forward pass made."""
        return ctx.saved_tensors[0], None


def fold_tile(tile: torch.Tensor, *_: Any, **__: Any) -> None:
    """TRL's Triton kernels work inside a tile of logits (trl/kernels/chunked_logprob.py)."""
    OPS.fold(tile)


def accumulate_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """On CUDA cuBLAS adds a bf16 product to an fp32 sum in place."""
    OPS.accumulate_product(total, a, b)
