"""Greedy answers and answer log-probabilities, in batches of similar length."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
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
    label_scores: dict[str, float] | None = None
    """Of labels that were scored: the log-probability of each whole one with its end token, in nats."""


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
        found = greedy_batch(loaded, [prompts[index] for index in batch], max_new_tokens)
        answers.update(zip(batch, found, strict=True))
    return [answers[index] for index in range(len(prompts))]


def by_length(lengths: Sequence[int], batch_rows: int, batch_tokens: float = math.inf) -> list[list[int]]:
    """Row indices, longest first so that memory trouble shows at once, in batches within both limits.

    `batch_tokens` counts the padded tokens of a batch; a row of more than that stands alone.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        last = found[-1] if found else []
        if 0 < len(last) < batch_rows and lengths[last[0]] * (len(last) + 1) <= batch_tokens:
            last.append(index)
        else:
            found.append([index])
    return found


@contextmanager
def inference() -> Iterator[None]:
    """No gradients, and torch's flash kernel: loading a base on a CPU turns it off, for the sake of training.

    Forward alone it is the faster one there: 5.3 s against 6.3 s for 32 prompts of 124 tokens (135M, one thread).
    """
    import torch

    before = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_flash_sdp(True)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.enable_flash_sdp(before)


def answer_logits(
    loaded: Loaded, rows: Sequence[Encoded], batch_rows: int, label: str
) -> Iterator[tuple[int, Any]]:
    """(row index, logits [answer tokens, vocabulary]) of every row, teacher-forced on its answer; on the CPU."""
    batches = by_length([len(row.ids) for row in rows], batch_rows)
    for batch in progress(batches, label, len(batches)):
        # no yield inside inference_mode: a suspended generator would leave it on for its caller
        yield from zip(batch, _tail_logits(loaded, [rows[index] for index in batch]), strict=True)


def _tail_logits(loaded: Loaded, rows: Sequence[Encoded]) -> list[Any]:
    learned = [sum(label != IGNORE for label in row.labels) for row in rows]
    ids, mask = padded([row.ids for row in rows], loaded)
    with inference():
        keep = max(learned) + 1
        out = loaded.model(input_ids=ids, attention_mask=mask, logits_to_keep=keep, use_cache=False)
        # the logits at a position predict the next token, so the answer's begin one place before it
        return [
            tail[keep - 1 - count : keep - 1].cpu() for tail, count in zip(out.logits, learned, strict=True)
        ]


@dataclass
class _Growing:
    """An answer while it grows: its tokens and their log-probabilities."""

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)


@dataclass
class _Batch:
    """The rows that still grow, and what the network reads of each next."""

    rows: list[_Growing]
    ids: Any
    mask: Any
    positions: Any
    cache: Any = None

    def grow(self, network: Any) -> None:
        """Another token for every row."""
        out = network(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens, chances = likeliest(out.logits[:, -1])
        for row, token, chance in zip(self.rows, tokens.tolist(), chances.tolist(), strict=True):
            row.ids.append(token)
            row.log_probabilities.append(chance)
        self.cache, self.ids, self.positions = (
            out.past_key_values,
            tokens[:, None],
            self.positions[:, -1:] + 1,
        )

    def let_go(self, ends: Collection[int], max_new_tokens: int) -> None:
        """Drop the rows that have ended, make room for the next token of the others."""
        import torch

        stay = [
            place
            for place, row in enumerate(self.rows)
            if row.ids[-1] not in ends and len(row.ids) < max_new_tokens
        ]
        if 0 < len(stay) < len(self.rows):
            kept = torch.tensor(stay, device=self.mask.device)
            self.cache.reorder_cache(kept)
            self.ids, self.mask, self.positions = self.ids[kept], self.mask[kept], self.positions[kept]
        self.rows = [self.rows[place] for place in stay]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)


def greedy_batch(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
    """The most likely continuations of prompts that are computed at once; a row that has ended leaves the batch.

    transformers' `generate` computes every row until the last has ended, and keeps all tokens' logits in fp32.
    """
    ids, mask = padded(prompts, loaded)
    answers = [_Growing() for _ in prompts]
    batch = _Batch(list(answers), ids, mask, positions_of(mask))
    with inference():
        while batch.rows:
            batch.grow(loaded.model)
            batch.let_go(loaded.model.generation_config.eos_token_id, max_new_tokens)
    return [_answer(loaded, answer) for answer in answers]


def likeliest(logits: Any) -> tuple[Any, Any]:
    """The likeliest token of each row of logits [rows, vocabulary], and its log-probability in fp32."""
    logits = logits.float()
    best = logits.max(-1)
    return best.indices, best.values - logits.logsumexp(-1)


def _answer(loaded: Loaded, found: _Growing) -> Answer:
    """The end token's probability counts; it is no part of the text."""
    ended = found.ids[-1] in loaded.model.generation_config.eos_token_id
    confidence = math.exp(sum(found.log_probabilities) / len(found.ids))
    text = loaded.tokenizer.decode(found.ids[:-1] if ended else found.ids, skip_special_tokens=True)
    return Answer(text, confidence, tuple(found.ids), cut=not ended)


def positions_of(mask: Any) -> Any:
    """The place of every token in its own row; 0 where there is only padding."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def padded(rows: Sequence[list[int]], loaded: Loaded) -> tuple[Any, Any]:
    """Left-padded ids and mask, so that every row ends at the last column."""
    import torch

    width = max(len(ids) for ids in rows)
    fill = loaded.model.generation_config.pad_token_id
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows], device=loaded.model.device)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.model.device
    )
    return ids, mask
