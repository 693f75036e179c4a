"""What the same weights answer in transformers, and how sure they were where a server first answers otherwise.

Of an export the reference is the merged folder itself, not the adapter on its 4-bit base: the weights are the same on
both sides, so what differs is the engine's. That the folder is the adapter is fidelity.json's proof.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.answers import Answering
from eval.serving.inputs import Asked, Exported
from eval.serving.replay import Replay
from finetune.chat import IGNORE, Encoded
from finetune.config import RunConfig
from finetune.generate import Answer, answer_logits
from finetune.model import Loaded, load_plain


@dataclass(frozen=True)
class Divergence:
    """Where a server's answer first differs from the reference."""

    row: int
    position: int
    """Counted from 0 in the answer's tokens."""
    margin: float | None
    """Logits by which the reference prefers its own token to the server's there; infinite where one has none. None: not
    asked."""


@dataclass(frozen=True)
class Reference:
    """The reference's answers and the tokens that end one; of each replay where it first differs."""

    answers: Sequence[Answer]
    ends: Sequence[int]
    divergences: Sequence[Sequence[Divergence]]


def of_merged(run: RunConfig, exported: Exported, asked: Asked, replays: Sequence[Replay]) -> Reference:
    """The merged folder in bf16."""
    import torch

    prompts = list(asked.prompts)
    loaded = load_plain(exported.export.folder, exported.model(), run.hardware, torch.bfloat16)
    answers = Answering(run.eval).answer(loaded, prompts, "merged in transformers")
    found = [_divergences(loaded, prompts, answers, replay) for replay in replays]
    return Reference(answers, loaded.model.generation_config.eos_token_id, found)


def beside(merged: Reference, replays: Sequence[Replay]) -> Reference:
    """The same answers beside those of other weights, such as the adapter alone: places without margins."""
    places = [_places(merged.answers, replay) for replay in replays]
    found = [[Divergence(row, place, None) for row, place in item.items()] for item in places]
    return replace(merged, divergences=found)


def _divergences(
    loaded: Loaded, prompts: Sequence[list[int]], answers: Sequence[Answer], replay: Replay
) -> list[Divergence]:
    different = _places(answers, replay)
    asked = []
    for row, place in different.items():
        own, other = answers[row].ids[place : place + 1], replay.replies[row].ids[place : place + 1]
        if own and other:
            asked.append(_Choice(row, [*prompts[row], *answers[row].ids[:place]], own[0], other[0]))
    margins = _margins(loaded, asked)
    return [Divergence(row, place, margins.get(row, math.inf)) for row, place in different.items()]


def _places(answers: Sequence[Answer], replay: Replay) -> dict[int, int]:
    """Of each row whose answers differ: where first."""
    pairs = zip(answers, replay.replies, strict=True)
    found = {row: first_difference(answer.ids, reply.ids) for row, (answer, reply) in enumerate(pairs)}
    return {row: place for row, place in found.items() if place is not None}


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
