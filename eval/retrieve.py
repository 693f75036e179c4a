"""Examples from the training rows: what retrieval alone gives to a model that was not trained."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.chat import Message, Renderer, render_answer
from finetune.rows import question_of

Row = Mapping[str, Any]
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word, or one sign of Japanese or Chinese, which are written without spaces."""


@dataclass(frozen=True)
class Shots:
    """The examples of one prompt as they came out."""

    ids: list[int]
    """The whole prompt, ready to be answered."""
    shown: int
    dropped: int
    """Examples left out because the prompt would have been too long, the weakest first."""


class Examples:
    """The rows to take examples from, indexed by BM25 over the words that they ask with.

    Lucene's BM25 with its k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009, section 3), each word of a query once: a
    query is a whole document here, and its length must not decide which of its words count.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        from bm25s import BM25

        self.rows, self.groups = rows, np.array([str(row["group"]) for row in rows])
        self.index = BM25(method="lucene", k1=1.2, b=0.75)
        # bm25s looks at the first text to see what it got, so none may be empty
        self.index.index([_words(row) or [""] for row in rows], create_empty_token=False, show_progress=False)

    def nearest(self, row: Row, count: int) -> list[Row]:
        """The rows most like `row`, best first, none of its own group; the earlier row wins a tie.

        Where fewer share a word with it, the first of the others follow: they still show the form of an answer.
        """
        known = self.index.get_tokens_ids(list(dict.fromkeys(_words(row))))
        scores = self.index.get_scores_from_ids(known)
        others = np.flatnonzero(self.groups != str(row["group"]))
        scores = scores[others]
        if count < len(others):  # not the order of all of them for the sake of a few
            near = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
            others, scores = others[near], scores[near]
        return [self.rows[place] for place in others[np.argsort(-scores, kind="stable")][:count]]


def with_examples(
    renderer: Renderer, row: Row, examples: Sequence[Row], fits: Callable[[int, int], bool]
) -> Shots:
    """The row's prompt with `examples`, given best first, as earlier turns; the best stands next to the question.

    `fits` says of (tokens of the prompt, tokens of the examples) whether they may be so many; until it does, the
    weakest example is dropped.
    """
    plain = renderer.prompt_ids(row["messages"])
    for shown in range(len(examples), 0, -1):
        ids = renderer.prompt_ids(_conversation(row, examples[:shown]))
        if fits(len(ids), len(ids) - len(plain)):
            return Shots(ids, shown, len(examples) - shown)
    return Shots(plain, 0, len(examples))


def _conversation(row: Row, examples: Sequence[Row]) -> list[Message]:
    """The row's system message, the examples with their answers from the weakest to the best, the row's own turns."""
    system = [turn for turn in row["messages"] if turn["role"] == "system"]
    shown: list[Message] = []
    for example in reversed(examples):
        answer = {"role": "assistant", "content": render_answer(example["target"])}
        shown += [*_turns(example), answer]
    return [*system, *shown, *_turns(row)]


def _turns(row: Row) -> list[Message]:
    return [turn for turn in row["messages"] if turn["role"] != "system"]


def _words(row: Row) -> list[str]:
    """The words of what a row asks, whatever their case."""
    return WORD.findall(question_of(row).casefold())
