"""How good the adapter is between two steps, without a trace in the run: loss per trained token, exact match."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from peft.tuners.lora import LoraLayer

from finetune.chat import IGNORE, Encoded, parse_answer, render_answer
from finetune.errors import ConfigError
from finetune.generate import Answer, by_length, greedy, nothing
from finetune.model import Loaded

NO_ROWS = "val.jsonl holds no row to validate on; raise data.split.val_fraction, or set train.validate_every_steps=null"


@dataclass(frozen=True)
class ValidationLoss:
    """Mean loss in nats over all trained tokens of the rows, and how many these are."""

    loss: float
    tokens: int


def validation_loss(
    network: Any,
    rows: Sequence[Encoded],
    batch_rows: int,
    batch_tokens: int,
    mixed: bool = True,
    between: Callable[[], None] = nothing,
) -> ValidationLoss:
    """The mean over the trained tokens of all rows, the same for every batch size.

    `network` is a trainer's, with TRL's fused head: positions that are not trained are not scored, and logits stand in
    tiles, as in training. A batch has at most `batch_rows` rows and `batch_tokens` tokens with padding; given those of
    the run's largest micro-batch it needs less memory than a step. `mixed`: under bf16 autocast, as Trainer runs its
    steps. Call it between steps: inside of one, autocast would hand copies of the weights that have no gradient to the
    step. `between` is called before each batch. Raises ConfigError where no row has a trained token, and what `between`
    raises.
    """
    total, tokens = 0.0, 0
    autocast = torch.autocast(network.device.type, torch.bfloat16, enabled=mixed)
    with without_a_trace(network), torch.no_grad():
        for batch in by_length([len(row.ids) for row in rows], batch_rows, batch_tokens):
            between()
            ids, labels = _padded([rows[index] for index in batch], network.device)
            with autocast:
                # rows are padded on the right, where causal attention does not see it: no mask is needed
                out = network(input_ids=ids, labels=labels, fused_lm_head=True)
            total -= float(out.log_probs.double().sum())  # 0 where nothing is trained
            tokens += int(out.label_mask.sum())
    if not tokens:
        raise ConfigError(NO_ROWS)
    return ValidationLoss(total / tokens, tokens)


def exact_match(
    loaded: Loaded,
    rows: Sequence[Mapping[str, Any]],
    batch_rows: int,
    label: str = "exact match",
    between: Callable[[], None] = nothing,
) -> float:
    """Share of the prepared rows whose greedy answer is the target, as evaluation compares them.

    `loaded` holds a trainer's network. Answers get as many tokens as the longest target has, so one that does not end
    there is wrong. `between` is called before each batch. Raises ConfigError where there are no rows, and what
    `between` raises.
    """
    if not rows:
        raise ConfigError(NO_ROWS)
    prompts = [loaded.renderer.prompt_ids(row["messages"]) for row in rows]
    golds = [loaded.renderer.row(row["messages"], row["target"]) for row in rows]
    longest = max(sum(token != IGNORE for token in gold.labels) for gold in golds)
    with without_a_trace(loaded.model), _outside_of_autocast(loaded.model):
        answers = greedy(loaded, prompts, batch_rows, longest, label, between)
    return sum(map(_is_right, rows, answers)) / len(rows)


def _is_right(row: Mapping[str, Any], answer: Answer) -> bool:
    target = row["target"]
    found = parse_answer(answer.text, like=target)
    return not answer.cut and found is not None and found == parse_answer(render_answer(target), like=target)


@contextmanager
def without_a_trace(network: Any) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and every random generator are as they were before."""
    modes = [(module, module.training) for module in network.modules()]
    python, numbers = random.getstate(), numpy.random.get_state()  # noqa: NPY002  (the libraries' own generator)
    devices = [network.device] if network.device.type == "cuda" else []
    network.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        numpy.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def _outside_of_autocast(network: Any) -> Iterator[None]:
    """Let LoRA cast its inputs again: where a trainer stopped that, only autocast makes the precisions meet."""
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    before = [layer.cast_input_dtype_enabled for layer in layers]
    for layer in layers:
        layer.cast_input_dtype_enabled = True
    try:
        yield
    finally:
        for layer, cast in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = cast


def _padded(rows: Sequence[Encoded], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)
    labels = torch.tensor([row.labels + [IGNORE] * (width - len(row.ids)) for row in rows], device=device)
    return ids, labels
