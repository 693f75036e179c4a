"""One row as tokens: what is learned of it, and what would make it teach something else than was meant."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from finetune.chat import IGNORE, Encoded, Renderer, render_answer
from finetune.rows import data_of, document_of


class Fault(Enum):
    """Why a row is left out; the first that holds counts."""

    marked = "marked"
    """Its text holds the template's own marks, such as <|im_end|>: the tokenizer takes them for turns that end."""
    untrained = "untrained"
    """Its answer has no token beside the end token."""
    too_long = "too_long"
    """It has more than train.max_tokens tokens; no row is ever cut."""


@dataclass(frozen=True)
class RowTokens:
    """One row as tokens, and what was found in it."""

    id: str
    data: str
    document: str
    encoded: Encoded
    characters: int
    """Of the answer with its end token: what is learned."""
    fault: Fault | None
    marks: frozenset[str]
    bos: int
    """How often the beginning token stands at the start."""
    ends: bool
    """Whether the last label is an end token."""
    as_server: bool
    seam: bool
    """Whether prompt and answer tokenised as one text would be other tokens than apart."""
    altered: bool
    """Whether the template changes the answer, such as by trimming it."""

    @property
    def learned(self) -> int:
        """Number of learned tokens."""
        return sum(label != IGNORE for label in self.encoded.labels)


class Examiner:
    """Turns rows into tokens and looks at each; knows how many marks the template itself writes."""

    def __init__(self, renderer: Renderer, max_tokens: int) -> None:
        self.renderer, self.max_tokens = renderer, max_tokens
        self.ends = {id_ for id_, token in renderer.marks.items() if token in renderer.end_tokens}
        self.bos = next(
            (id_ for id_, token in renderer.marks.items() if token == renderer.tokenizer.bos_token), None
        )
        self.written: dict[tuple[str, ...], Counter[int]] = {}

    def __call__(self, row: Mapping[str, Any]) -> RowTokens:
        """One row as tokens, with its findings."""
        prompt, answer = self.renderer.texts(row["messages"], row["target"])
        prompt_ids, answer_ids = self.renderer.encode(prompt), self.renderer.encode(answer)
        ids, content = prompt_ids + answer_ids, render_answer(row["target"])
        marks = self._count(ids) - self._written(row["messages"])
        untrained = len(answer_ids) <= 1 or not content.strip()
        faults = {Fault.marked: marks, Fault.untrained: untrained, Fault.too_long: len(ids) > self.max_tokens}
        return RowTokens(
            id=str(row["id"]),
            data=data_of(row),
            document=document_of(row),
            encoded=Encoded(ids, [IGNORE] * len(prompt_ids) + answer_ids),
            characters=len(answer),
            fault=next((fault for fault, holds in faults.items() if holds), None),
            marks=frozenset(self.renderer.marks[id_] for id_ in marks),
            bos=next((place for place, id_ in enumerate(ids) if id_ != self.bos), len(ids)),
            ends=answer_ids[-1] in self.ends,
            as_server=self.renderer.server_ids(row["messages"]) == prompt_ids,
            seam=not self._joins(prompt, answer, answer_ids),
            altered=content not in answer,
        )

    def _count(self, ids: Sequence[int]) -> Counter[int]:
        return Counter(id_ for id_ in ids if id_ in self.renderer.marks)

    def _written(self, messages: Sequence[Mapping[str, str]]) -> Counter[int]:
        """The marks that the template writes around turns of these roles, whatever they say."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self.written:
            blank = self.renderer.row([{"role": role, "content": "x"} for role in roles], "x")
            self.written[roles] = self._count(blank.ids)
        return self.written[roles]

    def _joins(self, prompt: str, answer: str, answer_ids: list[int]) -> bool:
        # a mark separates what stands before it from what follows, so the text from the last one on decides
        start = max([0, *(prompt.rfind(mark) for mark in self.renderer.marks.values())])
        tail = prompt[start:]
        return self.renderer.encode(tail + answer) == self.renderer.encode(tail) + answer_ids
