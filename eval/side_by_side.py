"""Answers of base and adapter beside each other: columns on a terminal, plain blocks elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.own_prompts import Asked
from finetune.chat import render_answer
from finetune.console import shortened, visible
from finetune.generate import Answer


@dataclass(frozen=True)
class Answered:
    """A prompt and each arm's answer to it."""

    asked: Asked
    answers: Mapping[str, Answer]

    def differ(self) -> bool:
        """Whether the arms' answers are different texts."""
        return len({answer.text.strip() for answer in self.answers.values()}) > 1

    def as_json(self) -> dict[str, Any]:
        """The row of OUT=."""
        told = {
            arm: {"text": answer.text, "confidence": answer.confidence, "cut": answer.cut}
            for arm, answer in self.answers.items()
        }
        return {"messages": self.asked.messages, "target": self.asked.target, "answers": told}


def show(found: Sequence[Answered], characters: int, console: Console) -> None:
    """Print every prompt with its answers, `characters` of a prompt at most."""
    for number, item in enumerate(found, 1):
        console.print(Text(f"[{number}] {item.asked.where}", style="bold"))
        console.print(Text(shortened(visible(item.asked.shown), characters)))
        if console.is_terminal:
            console.print(_columns(item))
        else:
            for arm, answer in item.answers.items():
                console.print(Text(f"{_heading(arm, answer)}: {_text(answer)}"))
        if item.asked.target is not None:
            console.print(Text(f"expected: {visible(render_answer(item.asked.target))}"))
        console.print()


def summary(found: Sequence[Answered], max_new_tokens: int) -> Iterator[str]:
    """How many answers differ, and how many of each arm were cut."""
    differing = sum(item.differ() for item in found)
    cut = ", ".join(f"{arm} {sum(item.answers[arm].cut for item in found)}" for arm in found[0].answers)
    yield f"answers differ on {differing} of {len(found)} prompts; cut at eval.max_new_tokens={max_new_tokens}: {cut}"


def _columns(item: Answered) -> Table:
    table = Table(expand=True)
    for arm, answer in item.answers.items():
        table.add_column(Text(_heading(arm, answer)), ratio=1, overflow="fold")
    table.add_row(*(Text(_text(answer)) for answer in item.answers.values()))
    return table


def _heading(arm: str, answer: Answer) -> str:
    sure = "" if answer.confidence is None else f", confidence {answer.confidence:.2f}"
    return f"{arm}{sure}{', CUT' if answer.cut else ''}"


def _text(answer: Answer) -> str:
    return visible(answer.text.strip()) or "(empty)"
