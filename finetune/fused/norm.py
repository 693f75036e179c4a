"""RMSNorm on a CPU that keeps its input alone for the backward pass, not three copies of it in fp32."""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class RMSNorm(Function):
    """weight * x / sqrt(mean(x^2) + eps), the quotient in fp32 (arXiv 1910.07467); the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """In the precisions in which transformers' Llama computes it."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        out: Tensor = weight * (x * inverse).to(x.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Of the input alone."""
        x, weight, inverse = ctx.saved_tensors
        of_quotient, quotient = (grad * weight).float(), x * inverse
        along = torch.linalg.vecdot(of_quotient, quotient).unsqueeze(-1).div_(x.shape[-1])
        return quotient.mul_(-along).add_(of_quotient).mul_(inverse).to(x.dtype), None, None


@cache
def _is_llamas(kind: Any) -> bool:
    """Whether a class computes what Llama's does: transformers copies the code into each family that shares it."""
    if not kind.__name__.endswith("RMSNorm"):
        return False
    return inspect.getsource(kind.forward) == inspect.getsource(LlamaRMSNorm.forward)


def fuse_norms(network: nn.Module) -> None:
    """Let the frozen norms of this network that are Llama's keep less; the others stay as they are."""
    for module in network.modules():
        kind: Any = type(module)
        if _is_llamas(kind) and not module.weight.requires_grad:
            module.forward = _forward.__get__(module)


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    out: Tensor = RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return out
