"""The loss heads that published runs and `train` use, over hidden states without content."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from finetune.architecture import config_of
from finetune.config.plan import Device
from finetune.loss import OUTPUTS, LogProbabilities
from finetune.plan.kernels import FusedLinearCrossEntropy, InPlaceCrossEntropy, accumulate_product, fold_tile
from finetune.plan.settings import Head, Settings

TRL_TILE = 32768
"""Columns of a tile of logits (trl 1.16, trainer/utils.py)."""
TRL_OUTPUTS = ("log_probs", "entropy", "is_top1")
"""What SFTTrainer asks of its head, for the loss and for its log (trl 1.16, trainer/sft_trainer.py)."""


def score(hidden: torch.Tensor, head: Any, settings: Settings) -> torch.Tensor:
    """The loss of hidden states (rows, tokens, width) under a head."""
    if settings.head is Head.chunked:
        return _chunked(hidden, head, settings)
    if settings.head is Head.fused:
        loss: torch.Tensor = FusedLinearCrossEntropy.apply(_flat(hidden).to(torch.bfloat16), head.weight)
        return loss
    logits = head(hidden)
    if settings.head is Head.plain:
        return cross_entropy(_flat(logits), _targets(logits), reduction="sum")
    kept = logits if settings.keeps_logits else None
    logits = logits.float()
    shifted = logits[:, :-1].contiguous()
    if settings.head is Head.in_place:
        loss = InPlaceCrossEntropy.apply(_flat(shifted))
    else:
        loss = cross_entropy(_flat(shifted), _targets(shifted))
    del kept  # not before the loss is known
    return loss


def _flat(states: torch.Tensor) -> torch.Tensor:
    return states.reshape(-1, states.shape[-1])


def _targets(states: torch.Tensor) -> torch.Tensor:
    return torch.zeros(states.numel() // states.shape[-1], dtype=torch.long)


def _chunked(hidden: torch.Tensor, head: Any, settings: Settings) -> torch.Tensor:
    """TRL's or our function on the trained positions; which they are follows the text, how many does not."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    ours = settings.fused and settings.device is Device.cpu
    function = LogProbabilities if ours else ChunkedLogProbFunction
    shifted = hidden[:, :-1]
    positions = shifted.shape[0] * shifted.shape[1]
    trained = positions if settings.trained is None else min(settings.trained, positions)
    place = torch.zeros(trained, dtype=torch.long)
    chosen = shifted[place, place]
    softcap = getattr(config_of(settings.architecture), "final_logit_softcapping", None)
    options = (1.0, TRL_TILE, softcap, 1.0, OUTPUTS if settings.fused else TRL_OUTPUTS)
    loss = function.apply(chosen, head.weight, head.bias, place, *options)[0]
    assert loss is not None  # noqa: S101  (the others may be)
    return -loss.sum()


@contextmanager
def tiles_as_on(device: Device) -> Iterator[None]:
    """On CUDA TRL folds each tile of logits in a Triton kernel and adds products in place; on CPU torch does both."""
    import trl.kernels.chunked_logprob as kernel

    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    before = {name: getattr(kernel, name) for name in names}
    if device is Device.cuda:
        kernel._forward_tile = kernel._backward_tile = fold_tile
        kernel._addmm_fp32 = accumulate_product
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(kernel, name, function)
