"""A model at work on tensors without content, followed operator by operator: a training step, answers, loading."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune.config.plan import Device
from finetune.generate import inference, likeliest
from finetune.model import _give_head_contiguous_states as give_head_contiguous_states
from finetune.plan.heads import score, tiles_as_on
from finetune.plan.holdings import (
    hold_gradients,
    hold_optimizer,
    hold_weights,
    layers_of,
    loading_transient,
    update,
)
from finetune.plan.kernels import cpu_scratch, cuda_scratch
from finetune.plan.memory import Event, MemoryTracker, Work
from finetune.plan.network import attention_as_in_training, build, give_fake_weights, set_checkpointing
from finetune.plan.settings import Settings


@dataclass
class Recording:
    """The step of a model as it was followed: every event, and by layer the work, `trained` weights, `paged` bytes."""

    events: list[Event]
    work: dict[int | None, Work]
    facts: dict[int | None, Counter[str]]


@contextmanager
def prepared(settings: Settings, layers: int) -> Iterator[tuple[Any, MemoryTracker, Recording]]:
    """A model of `layers` layers on tensors without content, a tracker that holds its weights, and its recording."""
    network = build(settings, layers)
    tracker = MemoryTracker(cuda_scratch if settings.device is Device.cuda else cpu_scratch)
    found = Recording([], tracker.work, {})
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_fake_weights(network, settings)
        hold_weights(tracker, network)
        yield network, tracker, found
    found.events = list(tracker.events)  # before the weights are released


def record_step(settings: Settings, layers: int) -> Recording:
    """Run the step of a model of `layers` layers on one device."""
    with prepared(settings, layers) as (network, tracker, found):
        set_checkpointing(network, settings)
        _moments, found.facts = hold_optimizer(tracker, network, settings)
        tracker.phase = "forward"
        if settings.accumulates:
            hold_gradients(tracker, network)
        run_step(tracker, network, settings)
        tracker.phase = "optimizer"
        update(tracker, network, settings)
    return found


def record_answers(settings: Settings, layers: int, new_tokens: int) -> Recording:
    """Answer an evaluation batch as finetune.generate does: the prompts, then the last of the new tokens of all rows.

    The cache grows by copies.
    """
    with prepared(settings, layers) as (network, tracker, found):
        model = network.eval().get_base_model()
        give_head_contiguous_states(model)
        follow_layers(tracker, network, settings)
        tracker.phase = "prompt"
        with attention_as_in_training(settings), inference(), tracker:
            tracker.category = "activations"
            ids, _, mask = batch_of(settings)
            out = model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
            tracker.layer, tracker.phase = None, "last new token"
            cache, ids = out.past_key_values, ids[:, :1]
            likeliest(out.logits[:, -1])
            del out
            grown = [_grow(cache, layer, tracker, new_tokens - 1) for layer in range(layers)]
            tracker.layer = None
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tracker.layer = None
            likeliest(out.logits[:, -1])
        del grown
    return found


def _grow(cache: Any, layer: int, tracker: MemoryTracker, tokens: int) -> torch.Tensor:
    """The room of further tokens in a layer's cache."""
    tracker.layer = layer
    keys, values = cache.layers[layer].keys, cache.layers[layer].values
    return torch.empty(tokens * (keys.nbytes + values.nbytes) // keys.shape[-2], dtype=torch.uint8)


def record_loading(settings: Settings, layers: int) -> Recording:
    """Load the base tensor by tensor, the one with the largest transient last."""
    with prepared(settings, layers) as (network, tracker, found):
        base = [parameter for parameter in network.parameters() if not parameter.requires_grad]
        tracker.phase = "loading"
        tracker.spike("transient", max(loading_transient(parameter, settings) for parameter in base))
    found.events = [event for event in found.events if event.category != "LoRA weights"]
    return found


def run_step(tracker: MemoryTracker, network: Any, settings: Settings) -> None:
    """Forward, loss and backward of one micro-batch."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: tracker.hold(p.grad, "gradients"))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast)
    backbone = network.get_base_model().base_model
    held = follow_layers(tracker, network, settings)
    with ExitStack() as stack:
        stack.enter_context(attention_as_in_training(settings))
        stack.enter_context(tiles_as_on(settings.device))
        stack.enter_context(keep_inputs(settings))
        stack.enter_context(tracker)
        stack.enter_context(tracker.labelled("activations", "forward"))
        ids, labels, mask = batch_of(settings)
        with autocast:
            hidden = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            tracker.layer = None
            with tracker.labelled("loss head", "loss"):
                loss = score(hidden, network.get_output_embeddings(), settings)
            del hidden
        with tracker.labelled("working set", "backward"):
            loss.backward()
            tracker.layer = None
        del labels
    held.clear()


def batch_of(settings: Settings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Token ids, labels, and which tokens are no padding; packed rows have none."""
    rows, tokens = settings.rows, settings.tokens
    shape = (1, rows * tokens) if settings.packed else (rows, tokens)
    ids = torch.zeros(shape, dtype=torch.long)
    return ids, torch.zeros_like(ids), None if settings.packed else torch.ones_like(ids)


@contextmanager
def keep_inputs(settings: Settings) -> Iterator[None]:
    """bitsandbytes before 0.45: MatMul4Bit's context holds on to its input (autograd/_functions.py, ctx.tensors)."""
    import bitsandbytes as bnb

    product = bnb.matmul_4bit

    def keeping(states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = product(states, *args, **kwargs)
        if result.grad_fn is not None:
            result.grad_fn.kept_input = states  # type: ignore[attr-defined]
        return result

    if settings.keeps_inputs:
        bnb.matmul_4bit = keeping
    try:
        yield
    finally:
        bnb.matmul_4bit = product


def follow_layers(tracker: MemoryTracker, network: Any, settings: Settings) -> list[torch.Tensor]:
    """Tell the tracker which layer is at work, and in the backward pass its phase: last, inner or first layer.

    Returns what FSDP holds until the step ends, filled as the step goes: FSDP1's hooks for frozen parameters
    (torch.distributed.fsdp._runtime_utils, _register_post_backward_reshard_only_hook) keep the states between the
    layers and their gradients.
    """
    layers, held = layers_of(network), list[torch.Tensor]()
    for index, layer in enumerate(layers):
        place = "first layer" if index == 0 else "last layer" if index == len(layers) - 1 else "inner layers"
        _follow(layer, index, f"backward, {place}", tracker, held if settings.gpus > 1 else None)
    return held


def _follow(
    layer: Any, index: int, phase: str, tracker: MemoryTracker, held: list[torch.Tensor] | None
) -> None:
    def enter(*_: Any) -> None:
        tracker.layer = index

    def arrive(gradient: torch.Tensor) -> None:
        tracker.phase, tracker.layer = phase, index
        if held is not None:
            held.append(gradient)

    def leave(module: Any, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if states.requires_grad:
            states.register_hook(arrive)
            if held is not None:
                held.append(states.detach())

    layer.register_forward_pre_hook(enter)
    layer.register_forward_hook(leave)
