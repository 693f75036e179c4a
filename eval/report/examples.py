"""Rows that the page quotes, only where eval.examples asks for them: they hold private text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.predictions import Prediction, pair
from finetune.chat import render_answer
from finetune.rows import question_of

KINDS = {
    (True, False): "Broke: the base is right, the adapter wrong",
    (False, False): "Both wrong",
    (False, True): "Fixed: the base is wrong, the adapter right",
}
"""By whether base and adapter are right, in the order in which they are shown."""


@dataclass(frozen=True)
class Example:
    """One row: its question, the gold answer, what base and adapter said, and how sure the adapter was."""

    kind: str
    question: str
    gold: str
    base: str
    adapter: str
    confidence: float | None


def pick(
    base: Sequence[Prediction], adapter: Sequence[Prediction], rows: Sequence[Mapping[str, Any]], count: int
) -> list[Example]:
    """At most `count` rows of each kind, those first of which the adapter is surest; ties as the rows stand."""
    pairs, questions = pair(base, adapter), {row["id"]: question_of(row) for row in rows}
    both = list(zip(pairs.a, pairs.b, strict=True))
    found = []
    for rights, kind in KINDS.items():
        members = [(a, b) for a, b in both if (a["score"] >= 1, b["score"] >= 1) == rights]
        members.sort(key=lambda item: -(item[1]["confidence"] or 0.0))
        found += [
            Example(
                kind,
                questions.get(a["id"], a.get("question", "")),
                render_answer(a["gold"]),
                a["raw"],
                b["raw"],
                b["confidence"],
            )
            for a, b in members[:count]
        ]
    return found
