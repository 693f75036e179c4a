"""What a device holds before a step computes anything: weights, gradients, the optimizer's moments, the batch."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from finetune.config.plan import Device
from finetune.config.schema import Optimizer
from finetune.plan.memory import MemoryTracker
from finetune.plan.settings import Settings

EIGHT_BIT = (Optimizer.adamw_8bit, Optimizer.paged_adamw_8bit)
PAGED = (Optimizer.paged_adamw_8bit, Optimizer.paged_adamw_32bit)
SMALLEST_8BIT, SMALLEST_PAGED, OPTIMIZER_BLOCK = 4096, 100_000, 256
"""Elements from which bitsandbytes keeps 8-bit or paged moments, and that share a scale (optim/optimizer.py)."""
COPIES_32BIT, COPIES_8BIT = 3, 5
"""fp32 copies of one weight that are there at once in bitsandbytes' Adam on a CPU (backends/cpu/ops.py): scaled
gradient, root and sum, or both moments, scaled gradient, root and denominator."""


def layers_of(network: nn.Module) -> nn.ModuleList:
    """The model's repeated layers."""
    return next(module for module in network.modules() if isinstance(module, nn.ModuleList))


def by_layer(network: nn.Module, tracker: MemoryTracker) -> Iterator[nn.Parameter]:
    """Every parameter, with the tracker told which layer it belongs to."""
    layers = {
        id(parameter): index
        for index, layer in enumerate(layers_of(network))
        for parameter in layer.parameters()
    }
    for parameter in network.parameters():
        tracker.layer = layers.get(id(parameter))
        yield parameter
    tracker.layer = None


def hold_weights(tracker: MemoryTracker, network: Any) -> None:
    """Count every parameter and buffer under what it is."""
    embeddings = {id(network.get_input_embeddings().weight), id(network.get_output_embeddings().weight)}
    for parameter in by_layer(network, tracker):
        state = getattr(parameter, "quant_state", None)
        tracker.hold(parameter, _category(parameter, id(parameter) in embeddings))
        if state is not None:
            tracker.hold(state.absmax, "quantisation scales")
            if state.nested:
                tracker.hold(state.state2.absmax, "quantisation scales")
            if hasattr(state, "kept"):
                tracker.hold(state.kept, "dequantised weights")
    for buffer in network.buffers():
        tracker.hold(buffer, "other weights")


def _category(parameter: nn.Parameter, is_embedding: bool) -> str:
    if parameter.requires_grad:
        return "LoRA weights"
    if getattr(parameter, "quant_state", None) is not None:
        return "quantised weights"
    if is_embedding:
        return "embeddings and head"
    return "experts (bf16)" if parameter.dim() == 3 else "other weights"  # noqa: PLR2004


def loading_transient(parameter: torch.Tensor, settings: Settings) -> int:
    """Bytes beside a weight while it is loaded, when it is quantised or when experts are stacked.

    CUDA: the bf16 tensor and the scales before they are quantised too. CPU: bitsandbytes' fp32 copies, indices and
    halves (0.50.2, backends/default/ops.py, quantize_4bit); the file is mapped, not read into memory.
    """
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return int(parameter.nbytes) if parameter.dim() == 3 else 0  # noqa: PLR2004
    elements: int = state.shape.numel()
    if settings.device is Device.cuda:
        return 2 * elements + 4 * elements // int(state.blocksize)
    return 3 * 4 * elements + elements + elements // 2


def hold_gradients(tracker: MemoryTracker, network: nn.Module) -> None:
    """Gradients of an earlier micro-batch, which the next one is added to."""
    for parameter in by_layer(network, tracker):
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            tracker.hold(parameter.grad, "gradients")


def hold_optimizer(
    tracker: MemoryTracker, network: nn.Module, settings: Settings
) -> tuple[list[torch.Tensor], dict[int | None, Counter[str]]]:
    """Adam's moments as they stand from the second step on, and `trained` weights and `paged` bytes by layer.

    Paged moments live outside of torch's allocator.
    """
    moments, facts = [], dict[int | None, Counter[str]]()
    for parameter in by_layer(network, tracker):
        if not parameter.requires_grad:
            continue
        bytes_, scales = moment_bytes(parameter, settings)
        paged = _is_paged(parameter, settings)
        found = facts.setdefault(tracker.layer, Counter())
        found.update(trained=parameter.numel(), paged=bytes_ if paged else 0)
        moments.append(torch.empty(scales + (0 if paged else bytes_), dtype=torch.uint8))
        tracker.hold(moments[-1], "optimizer")
    return moments, facts


def moment_bytes(parameter: torch.Tensor, settings: Settings) -> tuple[int, int]:
    """Bytes of both moments of a weight, and of their scales.

    torch keeps moments in the weight's precision, bitsandbytes' 32-bit ones are fp32.
    """
    elements = parameter.numel()
    if settings.optimizer in EIGHT_BIT and elements >= SMALLEST_8BIT:
        return 2 * elements, 2 * 4 * -(-elements // OPTIMIZER_BLOCK)
    width = parameter.itemsize if settings.optimizer is Optimizer.adamw_torch else 4
    return 2 * elements * width, 0


def _is_paged(parameter: torch.Tensor, settings: Settings) -> bool:
    on_cuda = settings.device is Device.cuda
    return settings.optimizer in PAGED and on_cuda and parameter.numel() >= SMALLEST_PAGED


def update(tracker: MemoryTracker, network: nn.Module, settings: Settings) -> None:
    """What the optimizer's step allocates and releases; clipping takes a few bytes a weight, which are left out.

    On CUDA torch updates all weights at once, by way of the root of every second moment (optim/adam.py,
    _multi_tensor_adam); bitsandbytes' kernels need nothing. On a CPU weights are updated one by one: torch makes root
    and denominator while the denominator before is still there (_single_tensor_adam).
    """
    if settings.device is Device.cuda and settings.optimizer is not Optimizer.adamw_torch:
        return
    roots: list[torch.Tensor] = []
    before = 0
    for parameter in by_layer(network, tracker):
        if not parameter.requires_grad:
            continue
        elements = parameter.numel()
        if settings.device is Device.cuda:
            roots.append(torch.empty_like(parameter))
            tracker.hold(roots[-1], "optimizer")
        elif settings.optimizer is Optimizer.adamw_torch:
            tracker.spike("optimizer", parameter.itemsize * (2 * elements + before))
            before = elements
        else:
            copies = COPIES_8BIT if moment_bytes(parameter, settings)[1] else COPIES_32BIT
            tracker.spike("optimizer", 4 * elements * copies)
