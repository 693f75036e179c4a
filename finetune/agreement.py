"""How far two models agree at the same positions."""

from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN_QUANTILE = 0.999


@dataclass(frozen=True)
class Agreement:
    """Two models at the same positions: mean KL(a || b) in nats, share of equal top-1, change of the top-2 gap."""

    kl: float
    top1: float
    margin: float


def agreement(first: Tensor, second: Tensor, chunk: int = 256) -> Agreement:
    """Agreement of two logit tensors [positions, vocabulary]; float64 sums, so that 1e-9 is not rounding."""
    kl, same, gaps = 0.0, 0, []
    for a, b in zip(torch.split(first, chunk), torch.split(second, chunk), strict=True):
        a, b = a.double().log_softmax(-1), b.double().log_softmax(-1)
        kl += float((a.exp() * (a - b)).sum())
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        top_a, top_b = a.topk(2, -1).values, b.topk(2, -1).values
        gaps.append(((top_a[:, 0] - top_a[:, 1]) - (top_b[:, 0] - top_b[:, 1])).abs())
    margin = float(torch.cat(gaps).quantile(MARGIN_QUANTILE))
    return Agreement(kl / len(first), same / len(first), margin)
