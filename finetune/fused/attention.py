"""Attention on a CPU: keys and values are not repeated, probabilities are kept in bf16.

torch 2.13 has two ways for masked rows there. Its flash kernel takes three times as long in its bf16 backward pass;
its plain one repeats the keys and values of grouped heads, computes all in fp32 and keeps copies of all of it. Here
scores and their gradients are fp32, and probabilities are rounded to the values' precision before they are multiplied,
as flash attention does (arXiv 2205.14135).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "sdpa_fused"
"""transformers' name of this attention; its masks are those of sdpa."""
UNKNOWN = ("position_bias", "cache", "softcap", "s_aux")
"""What some families give beside, for torch's own attention to use or to refuse."""
HIDDEN_SCORE = torch.finfo(torch.float32).min
"""Not minus infinity: a row that sees nothing, such as padding on the left, would be no number."""


class Attention(Function):
    """Values weighted by softmax(scaling q k^T); heads that share a key head are its rows, one below the other."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scaling: float
    ) -> Tensor:
        """(batch, heads, tokens, width) of each; `hidden` is true where a position may not be seen."""
        ctx.of_query = query.shape
        query, keys, values = _by_key_head(query, key), key.flatten(0, 1), value.flatten(0, 1)
        scores = torch.bmm(query.float() * scaling, keys.float().transpose(1, 2))
        if hidden is not None:
            scores.view(*ctx.of_query[:3], -1).masked_fill_(hidden, HIDDEN_SCORE)
        weights = torch.softmax(scores, dim=-1).to(value.dtype)
        ctx.save_for_backward(query, keys, values, weights)
        ctx.scaling = scaling
        return torch.bmm(weights, values).view(*ctx.of_query[:3], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients of queries, keys and values."""
        query, keys, values, weights = ctx.saved_tensors
        grad = grad.reshape(len(keys), -1, grad.shape[-1])
        of_values = torch.bmm(weights.transpose(1, 2), grad)
        of_weights = torch.bmm(grad.float(), values.float().transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights.float(), -1, torch.float32).to(
            query.dtype
        )
        of_query = torch.bmm(of_scores, keys).mul_(ctx.scaling).view(ctx.of_query)
        of_keys = torch.bmm(of_scores.transpose(1, 2), query).mul_(ctx.scaling)
        rows = (ctx.of_query[0], -1)
        return of_query, of_keys.unflatten(0, rows), of_values.unflatten(0, rows), None, None


def _by_key_head(query: Tensor, key: Tensor) -> Tensor:
    """Queries (batch x key heads, heads of each x tokens, width)."""
    return query.reshape(key.shape[0] * key.shape[1], -1, query.shape[-1])


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface; (batch, tokens, heads, width)."""
    known = attention_mask is None or attention_mask.dtype is torch.bool
    if given.get("dropout") or not known or any(given.get(name) is not None for name in UNKNOWN):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **given
        )
        return found
    hidden = (
        ~attention_mask if attention_mask is not None else _later(module, query, key, given.get("is_causal"))
    )
    scaling = given.get("scaling") or query.shape[-1] ** -0.5
    with torch.autocast(query.device.type, enabled=False):  # it would round the scores
        out: Tensor = Attention.apply(query, key, value, hidden, scaling)
    return out.transpose(1, 2).contiguous(), None


def _later(module: Any, query: Tensor, key: Tensor, is_causal: bool | None) -> Tensor | None:
    """Where transformers gives no mask: the positions after each, if attention is causal at all."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal or query.shape[2] == 1:
        return None
    return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)


def use_fused_attention(network: Any) -> None:
    """Let a network whose attention is torch's compute it here; one that has an attention of its own keeps it."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    if network.config._attn_implementation == "sdpa" and network._supports_attention_backend:
        network.set_attn_implementation(NAME)
