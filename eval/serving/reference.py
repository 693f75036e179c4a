"""What the same weights answer in transformers, and how sure they were where a server first answers otherwise.

Of an export the reference is the merged folder itself, not the adapter on its 4-bit base: the weights are the same on
both sides, so what differs is the engine's. That the folder is the adapter is fidelity.json's proof.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eval.answers import Answering
from eval.serving.inputs import Asked, Exported
from eval.serving.replay import Replay
from finetune.artifacts import Artifact
from finetune.chat import IGNORE, Encoded
from finetune.config import RunConfig
from finetune.generate import Answer, answer_logits
from finetune.model import Loaded, attach_trained, load_plain


@dataclass(frozen=True)
class Divergence:
    """Where a server's answer first differs from the reference."""

    row: int
    position: int
    """Counted from 0 in the answer's tokens."""
    margin: float
    """Logits by which the reference prefers its own token to the server's there; infinite where one has none."""


@dataclass(frozen=True)
class Reference:
    """The reference's answers and the tokens that end one; of each replay where it first differs."""

    answers: Sequence[Answer]
    ends: Sequence[int]
    divergences: Sequence[Sequence[Divergence]]


def of_merged(run: RunConfig, exported: Exported, asked: Asked, replays: Sequence[Replay]) -> Reference:
    """The merged folder in bf16."""
    with _loaded(run, exported, exported.export) as loaded:
        return _reference(run, loaded, asked, replays, "merged in transformers")


def of_adapter(run: RunConfig, exported: Exported, asked: Asked, replays: Sequence[Replay]) -> Reference:
    """The adapter on the base in bf16: not the 4-bit base that it was trained on, but what a server has."""
    with _loaded(run, exported, exported.base) as loaded:
        trained = attach_trained(loaded, exported.adapter)
        return _reference(run, trained, asked, replays, "adapter in transformers")


@contextmanager
def _loaded(run: RunConfig, exported: Exported, weights: Artifact) -> Iterator[Loaded]:
    """A folder's model in bf16, and its memory free again behind."""
    import torch

    yield load_plain(Path(weights.folder), exported.model(), run.hardware, torch.bfloat16)
    gc.collect()
    torch.cuda.empty_cache()


def _reference(
    run: RunConfig, loaded: Loaded, asked: Asked, replays: Sequence[Replay], label: str
) -> Reference:
    prompts = list(asked.prompts)
    answers = Answering(replace(run.eval)).answer(loaded, prompts, label)
    found = [_divergences(loaded, prompts, answers, replay) for replay in replays]
    return Reference(answers, loaded.model.generation_config.eos_token_id, found)


def _divergences(
    loaded: Loaded, prompts: Sequence[list[int]], answers: Sequence[Answer], replay: Replay
) -> list[Divergence]:
    places = {
        row: first_difference(answer.ids, reply.ids)
        for row, (answer, reply) in enumerate(zip(answers, replay.replies, strict=True))
    }
    different = {row: place for row, place in places.items() if place is not None}
    asked = []
    for row, place in different.items():
        own, other = answers[row].ids[place : place + 1], replay.replies[row].ids[place : place + 1]
        if own and other:
            asked.append(_Choice(row, [*prompts[row], *answers[row].ids[:place]], own[0], other[0]))
    margins = _margins(loaded, asked)
    return [Divergence(row, place, margins.get(row, math.inf)) for row, place in different.items()]


def first_difference(own: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two answers differ, or where one of them ends; None where they are equal."""
    if tuple(own) == tuple(other):
        return None
    pairs = enumerate(zip(own, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(own), len(other)))


@dataclass(frozen=True)
class _Choice:
    """A place at which two answers go on with another token."""

    row: int
    before: list[int]
    own: int
    other: int


def _margins(loaded: Loaded, choices: Sequence[_Choice]) -> dict[int, float]:
    """By row, the logits between the two tokens, computed row by row without padding."""
    rows = [
        Encoded([*choice.before, choice.own], [IGNORE] * len(choice.before) + [choice.own])
        for choice in choices
    ]
    found = {}
    for place, logits in answer_logits(loaded, rows, 1, "margins"):
        choice = choices[place]
        found[choice.row] = abs(float(logits[0, choice.own]) - float(logits[0, choice.other]))
    return found
