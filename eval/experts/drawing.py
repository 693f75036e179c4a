"""Which rows experts see, and on which side each arm's answer stands: nobody without the key can tell."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.arms import ADAPTER
from eval.experts.cells import cell, fingerprint
from eval.predictions import Prediction, pair
from eval.tasks.spans import asked_of
from finetune.artifacts import Artifact
from finetune.chat import render_answer
from finetune.config.eval import TaskKind
from finetune.errors import ConfigError, DataError
from finetune.rows import json_lines

Lot = Callable[[str, str], bytes]
"""A purpose and a row's id to bytes that nobody without the key can foresee."""
LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class Item:
    """One row of the sheet: two answers to a prompt, and what only the key says of them."""

    row: str
    group: str
    left_arm: str
    prompt: str
    left: str
    right: str
    metric_gain: float = 0.0
    """The adapter's score minus the other's: what the metric makes of the row."""

    def cells(self) -> tuple[str, str, str]:
        """Prompt and answers as they stand in the table."""
        return cell(self.prompt), cell(self.left), cell(self.right)

    def secret(self, number: int) -> dict[str, Any]:
        """The item's line in the key."""
        return {
            "item": number,
            "row": self.row,
            "group": self.group,
            "left": self.left_arm,
            "metric_gain": self.metric_gain,
            "sha256": fingerprint(*self.cells()),
        }


@dataclass(frozen=True)
class Drawn:
    """The items in their order, and of how many rows they were drawn."""

    items: list[Item]
    rows: int
    """Of the task."""
    differing: int
    """On which the arms' answers differ: what was drawn from."""

    def groups(self) -> list[str]:
        """The group of every item."""
        return [item.group for item in self.items]


@dataclass(frozen=True)
class Sides:
    """The predictions of the arm to be beaten and of the adapter, of one task, with how its answers are read."""

    against: str
    kind: TaskKind
    a: list[Prediction]
    b: list[Prediction]


def lot(key: bytes, report: str) -> Lot:
    """The lots of one report under the key of an artifacts root: another draw in every report."""
    return lambda purpose, row: hmac.digest(key, f"review|{report}|{purpose}|{row}".encode(), "sha256")


def read_sides(report: Artifact, against: str, task: str, kind: TaskKind) -> Sides:
    """The predictions of both arms. Raises ConfigError where the report has no such arm."""
    names = [item["path"] for item in report.manifest.files]
    arms = [
        name.removeprefix("predictions_").removesuffix(".jsonl")
        for name in names
        if name.startswith("predictions_")
    ]
    if against not in arms or ADAPTER not in arms:
        known = ", ".join(arm for arm in arms if arm != ADAPTER)
        raise ConfigError(
            f"review.against={against}: {report.folder} holds no answers of it and of the adapter; one of: {known}"
        )
    return Sides(against, kind, *(_predictions(report, arm, task) for arm in (against, ADAPTER)))


def draw(sides: Sides, tests: Sequence[Mapping[str, Any]], count: int, lots: Lot) -> Drawn:
    """`count` of the rows that the two answer differently, each as likely as any other, in a random order.

    Raises DataError where they answer every row alike, or a predicted row is not in the test set.
    """
    pairs = pair(sides.a, sides.b)
    differing = [
        (a, b)
        for a, b in zip(pairs.a, pairs.b, strict=True)
        if answer_text(a, sides.kind) != answer_text(b, sides.kind)
    ]
    if not differing:
        raise DataError(
            f"{sides.against} and adapter answer all {len(pairs.a)} rows alike, so there is nothing to review"
        )
    prompts = _prompts(tests, sides.kind)
    differing.sort(key=lambda both: lots("draw", both[0]["id"]))
    items = [_item(both, sides, prompts, lots) for both in differing[:count]]
    return Drawn(items, len(pairs.a), len(differing))


def answer_text(prediction: Prediction, kind: TaskKind) -> str:
    """What the arm answered, word for word; of kind=spans, where windows were joined, the quotes of all of them."""
    found = prediction["prediction"]
    if kind is TaskKind.spans and found is not None:
        return render_answer(found)
    return prediction["raw"].strip()


def _item(
    both: tuple[Prediction, Prediction], sides: Sides, prompts: Mapping[tuple[str, ...], str], lots: Lot
) -> Item:
    a, b = both
    key = _key(a, sides.kind)
    if key not in prompts:
        raise DataError(f"row {a['id']} of the report is not in its test set; run `make eval CONF=…` again")
    texts = [answer_text(a, sides.kind), answer_text(b, sides.kind)]
    swapped = bool(lots("side", a["id"])[0] & 1)
    left, right = reversed(texts) if swapped else texts
    on_left = ADAPTER if swapped else sides.against
    return Item(a["id"], a["group"], on_left, prompts[key], left, right, b["score"] - a["score"])


def _predictions(report: Artifact, arm: str, task: str) -> list[Prediction]:
    lines = json_lines(report.path(f"predictions_{arm}.jsonl"))
    return [Prediction(**row) for _, row in lines if row["task"] == task]  # type: ignore[typeddict-item]


def _key(row: Mapping[str, Any], kind: TaskKind) -> tuple[str, ...]:
    """What a prediction is about: a row, or of kind=spans one question about a whole document."""
    if kind is TaskKind.spans:
        return asked_of(row)
    return (row["id"],)


def _prompts(tests: Sequence[Mapping[str, Any]], kind: TaskKind) -> dict[tuple[str, ...], str]:
    """The text of every prompt; the windows of a document follow each other."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in tests:
        found.setdefault(_key(row, kind), []).append(row)
    return {
        key: "\n\n[…]\n\n".join(
            _turns(row["messages"]) for row in sorted(rows, key=lambda row: row.get("window") or 0)
        )
        for key, rows in found.items()
    }


def _turns(messages: Sequence[Mapping[str, str]]) -> str:
    """System message and prompt; of a longer conversation every turn with its role."""
    roles = [turn["role"] for turn in messages]
    named = roles.count("user") > 1
    return "\n\n".join(
        f"{turn['role']}: {turn['content']}" if named else turn["content"] for turn in messages
    )
