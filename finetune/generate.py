"""Greedy answers and answer log-probabilities, in batches of similar length."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.chat import IGNORE, Encoded
from finetune.console import progress
from finetune.model import Loaded


@dataclass(frozen=True)
class Answer:
    """A decoded answer, the geometric mean of its tokens' probabilities, and whether the limit cut it."""

    text: str
    confidence: float | None
    ids: tuple[int, ...] = ()
    cut: bool = False
    seconds: float | None = field(default=None, compare=False)
    """The row's even share of the time in which its arm answered; None where that was not measured."""


def nothing() -> None:
    """What is done between two batches unless somebody asks for more."""


def greedy(
    loaded: Loaded,
    prompts: Sequence[list[int]],
    batch_rows: int,
    max_new_tokens: int,
    label: str,
    between: Callable[[], None] = nothing,
) -> list[Answer]:
    """The most likely continuation of every prompt, in the order of the prompts; `between` is called before a batch."""
    answers: dict[int, Answer] = {}
    batches = by_length([len(ids) for ids in prompts], batch_rows)
    for batch in progress(batches, label, len(batches)):
        between()
        found = _generate(loaded, [prompts[index] for index in batch], max_new_tokens)
        answers.update(zip(batch, found, strict=True))
    return [answers[index] for index in range(len(prompts))]


def by_length(lengths: Sequence[int], batch_rows: int) -> list[list[int]]:
    """Row indices in batches of similar length, longest first so that memory trouble shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]


def answer_logits(
    loaded: Loaded, rows: Sequence[Encoded], batch_rows: int, label: str
) -> Iterator[tuple[int, Any]]:
    """(row index, logits [answer tokens, vocabulary]) of every row, teacher-forced on its answer; on the CPU."""
    batches = by_length([len(row.ids) for row in rows], batch_rows)
    for batch in progress(batches, label, len(batches)):
        # no yield inside inference_mode: a suspended generator would leave it on for its caller
        yield from zip(batch, _tail_logits(loaded, [rows[index] for index in batch]), strict=True)


def _tail_logits(loaded: Loaded, rows: Sequence[Encoded]) -> list[Any]:
    import torch

    learned = [sum(label != IGNORE for label in row.labels) for row in rows]
    ids, mask = _pad([row.ids for row in rows], loaded)
    with torch.inference_mode():
        keep = max(learned) + 1
        out = loaded.model(input_ids=ids, attention_mask=mask, logits_to_keep=keep, use_cache=False)
        # the logits at a position predict the next token, so the answer's begin one place before it
        return [
            tail[keep - 1 - count : keep - 1].cpu() for tail, count in zip(out.logits, learned, strict=True)
        ]


def _generate(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
    import torch

    ids, mask = _pad(prompts, loaded)
    with torch.inference_mode():
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        scores = [step.float().log_softmax(-1).amax(-1) for step in out.logits]
    new = out.sequences[:, ids.shape[1] :]
    chances = torch.stack(scores, 1).tolist()
    return [_answer(loaded, row, chance) for row, chance in zip(new.tolist(), chances, strict=True)]


def _answer(loaded: Loaded, ids: list[int], log_probabilities: list[float]) -> Answer:
    """Cut after the end token; its probability counts, what was padded behind it does not."""
    ends = loaded.model.generation_config.eos_token_id
    end = next((place for place, item in enumerate(ids) if item in ends), None)
    length = len(ids) if end is None else end + 1
    confidence = math.exp(sum(log_probabilities[:length]) / length)
    text = loaded.tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Answer(text, confidence, tuple(ids[:length]), cut=end is None)


def _pad(rows: list[list[int]], loaded: Loaded) -> tuple[Any, Any]:
    """Left-padded ids and mask, so that every row ends at the last column."""
    import torch

    width = max(len(ids) for ids in rows)
    fill = loaded.model.generation_config.pad_token_id
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows], device=loaded.model.device)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.model.device
    )
    return ids, mask
