"""The loss head scores trained positions only, on every device; on a CPU in one pass over the logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

CHUNK_LOGITS = 2**22
"""Logits that stand in memory at once on a CPU: 8 MB in bf16, 16 MB in fp32, and log-probabilities as large."""
LEAST_ROWS = 64
"""Of a chunk, however large the vocabulary: each chunk reads the whole head."""

OUTPUTS = ("log_probs",)
"""Of TRL's head: the loss. Its own trainer logs an entropy and an accuracy beside."""


def score_trained_positions_only() -> None:
    """Make TRL's fused head skip masked positions on CPU as it does on CUDA, and go over the logits once there.

    TRL 1.16 computes the head on every position where Triton is missing: on completion-only data most of
    it is thrown away. The switch selects TRL's own compacted path, loss and gradient unchanged
    (trl/trainer/utils.py:1642).
    """
    import trl.trainer.utils

    trl.trainer.utils._use_triton = lambda device: True
    trl.trainer.utils._ChunkedLogProbFunction = LogProbabilities


class LogProbabilities:
    """In place of TRL's function of this interface: its own on a GPU, LogProbability where Triton is missing."""

    @staticmethod
    def apply(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Any
    ) -> tuple[Tensor | None, ...]:
        """log_probs [positions] and, from TRL's function alone, other outputs that are asked for.

        `options` are TRL's: temperature, columns of a tile, softcap, scale of the logits, names of the outputs.
        """
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        temperature, _, softcap, scale, outputs = options
        simple = bias is None and softcap is None and temperature == 1 and not weight.requires_grad
        if hidden.device.type == "cpu" and simple and outputs == OUTPUTS:
            log_probs: Tensor = LogProbability.apply(hidden, weight, targets, scale)
            return log_probs, None, None, None, None
        found: tuple[Tensor | None, ...] = ChunkedLogProbFunction.apply(
            hidden, weight, bias, targets, *options
        )
        return found


class LogProbability(Function):
    """The log-probability of each target under a frozen head.

    The gradient is taken while the logits are there, as Liger does (arXiv 2410.10989, section 3.2): TRL's function
    computes them again in the backward pass, and without Triton makes twelve passes over each for an entropy that
    nothing reads. The product with the head is accumulated over the whole vocabulary and rounded once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        """fp32 [positions] of hidden states [positions, width] and a head [vocabulary, width]."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        weight, rows = weight.to(dtype), max(LEAST_ROWS, CHUNK_LOGITS // weight.shape[0])
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            place = targets[part, None]
            logits = (hidden[part].to(dtype) @ weight.t()).float()
            log_probs = torch.log_softmax(logits.mul_(scale) if scale != 1 else logits, dim=-1)
            found[part] = log_probs.gather(1, place).squeeze(1)
            if gradient is not None:
                error = (
                    log_probs.exp_()
                    .neg_()
                    .scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))
                )
                gradient[part] = (error.to(dtype) @ weight).mul_(scale)
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Of the hidden states alone."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grad[:, None]).to(gradient.dtype), None, None, None
