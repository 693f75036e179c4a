"""Which answer tokens the format leaves open: only there can two models be seen to differ."""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.chat import IGNORE, Encoded

SHARED = 2
"""Answers that must begin alike before anything is said about how they go on."""


def free_positions(rows: Sequence[Encoded], others: Sequence[Encoded] = ()) -> Tensor:
    """Whether each answer position of `rows`, in row order, is free; bool [positions].

    A position is forced by the format where every answer of `rows` and `others` that begins with the same tokens goes
    on with the same one, and at least two do: the rest of a label that has begun, the closing mark and the end token
    after it. In an answer that begins like no other nothing is forced.
    """
    following: dict[tuple[int, ...], dict[int, int]] = {}
    for answer in map(answer_of, [*rows, *others]):
        for place, token in enumerate(answer):
            counts = following.setdefault(tuple(answer[:place]), {})
            counts[token] = counts.get(token, 0) + 1
    free = []
    for answer in map(answer_of, rows):
        for place in range(len(answer)):
            counts = following[tuple(answer[:place])]
            free.append(len(counts) > 1 or sum(counts.values()) < SHARED)
    return torch.tensor(free, dtype=torch.bool)


def answer_of(row: Encoded) -> list[int]:
    """The trained tokens of a row: its answer and the end token."""
    return [label for label in row.labels if label != IGNORE]
