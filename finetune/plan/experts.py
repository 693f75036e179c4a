"""Mixtures of experts: as transformers 5 stacks them, bf16 in one parameter, and as linear layers before."""

from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from finetune.plan.kernels import OPS


class GroupedProduct(Function):
    """Rows sorted by expert times each expert's weights (experts, out, in), without a copy of the weights."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(rows, out)."""
        ctx.save_for_backward(weights)
        return OPS.grouped_product(x, weights, False)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The experts are frozen: the gradient of the rows alone."""
        return OPS.grouped_product(grads[0], *ctx.saved_tensors, True), None


def grouped_experts(
    module: Any, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """transformers' grouped_mm_experts_forward (integrations/moe.py); the routing does not change what it holds."""
    chosen = top_k_index.shape[-1]
    order = torch.sort(top_k_index.reshape(-1))[1]
    selected = hidden[order // chosen]
    inner = GroupedProduct.apply(selected, module.gate_up_proj)
    gate, up = inner.chunk(2, dim=-1)
    outer = GroupedProduct.apply(module.act_fn(gate) * up, module.down_proj)
    weighted = (outer * top_k_weights.reshape(-1)[order].unsqueeze(-1))[torch.empty_like(order)]
    summed: torch.Tensor = weighted.view(len(hidden), chosen, -1).sum(dim=1)
    return summed.to(hidden.dtype)


class LinearExpert(nn.Module):
    """One expert of a layer as transformers 4 had it: three linear layers."""

    def __init__(self, outer: int, inner: int, act_fn: Any) -> None:
        super().__init__()
        self.act_fn = act_fn
        self.w1 = nn.Linear(outer, inner, bias=False, dtype=torch.bfloat16)
        self.w2 = nn.Linear(inner, outer, bias=False, dtype=torch.bfloat16)
        self.w3 = nn.Linear(outer, inner, bias=False, dtype=torch.bfloat16)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(tokens, width)."""
        return self.w2(self.act_fn(self.w1(states)) * self.w3(states))  # type: ignore[no-any-return]


class LinearExperts(nn.ModuleList):
    """A layer's experts, called one after the other; each gets the same share of the tokens: real routing follows the
    text."""

    def __init__(self, stacked: Any) -> None:
        count, inner, outer = stacked.gate_up_proj.shape
        super().__init__(LinearExpert(outer, inner // 2, stacked.act_fn) for _ in range(count))

    def forward(
        self, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """The experts' weighted sum, (tokens, width)."""
        result = torch.zeros_like(hidden)
        share = -(-top_k_index.numel() // len(self))
        weights = top_k_weights.reshape(-1)[:share, None].to(hidden.dtype)
        for expert in self:
            rows = torch.empty(share, dtype=torch.long, device=hidden.device)
            states = expert(hidden[rows]) * weights
            result.index_add_(0, rows, states.to(result.dtype))
        return result


def unstack_experts(network: nn.Module) -> None:
    """Put linear experts in place of stacked ones."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "gate_up_proj") and isinstance(child.gate_up_proj, nn.Parameter):
                with torch.device("meta"):
                    setattr(module, name, LinearExperts(child))
