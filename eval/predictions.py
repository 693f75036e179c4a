"""The prediction row of the contract, and two arms paired row by row."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from finetune.chat import Target
from finetune.errors import DataError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Prediction(TypedDict):
    """One line of predictions_<arm>.jsonl; `score` is 1 where the answer is right as a whole, else 0."""

    id: str
    group: str
    document: str | None
    task: str
    arm: str
    gold: Target
    prediction: Target | None
    raw: str
    score: float
    confidence: float | None
    label_scores: dict[str, float] | None
    """Of labels that were scored; of kind=spans each quote's confidence."""
    question: NotRequired[str]
    """The label or question that the row asks about, where it asks one."""


@dataclass(frozen=True)
class Pairs:
    """Two arms on the same rows in the same order, with each row's group as a number from 0."""

    a: list[Prediction]
    b: list[Prediction]
    groups: Indices


def pair(a: Sequence[Prediction], b: Sequence[Prediction]) -> Pairs:
    """Line up `b` with `a` by id.

    Raises DataError where an id is doubled, is in one arm only, or has another gold answer or group.
    """
    of_a, of_b = _by_id(a), _by_id(b)
    for missing, arm in ((of_a.keys() - of_b.keys(), b), (of_b.keys() - of_a.keys(), a)):
        if missing:
            raise DataError(
                f"{_arm(arm)} lacks {len(missing)} of the other arm's ids, "
                f"the first is {min(missing)}; evaluate both arms on the same rows"
            )
    lined_up = [of_b[item["id"]] for item in a]
    for left, right in zip(a, lined_up, strict=True):
        for field in ("gold", "group"):
            if left[field] != right[field]:
                raise DataError(
                    f"id {left['id']} has another '{field}' in {left['arm']} than in {right['arm']}"
                )
    return Pairs(list(a), lined_up, group_numbers(a))


def group_numbers(predictions: Sequence[Prediction]) -> Indices:
    """Each row's group as a number, in order of first appearance, so that opaque names decide nothing."""
    return numbered(item["group"] for item in predictions)


def numbered(names: Iterable[str]) -> Indices:
    """Each name's number in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def require_several_answers(rows: Sequence[Prediction]) -> None:
    """Raise DataError where every gold answer is the same: who always says it is right, whatever it learned."""
    first = rows[0]["gold"]
    if all(item["gold"] == first for item in rows):
        raise DataError(
            f"all {len(rows)} gold answers are the same, so this test set tells no skill from saying it always; "
            "add rows of other labels"
        )


def _by_id(predictions: Sequence[Prediction]) -> Mapping[str, Prediction]:
    doubled = [name for name, count in Counter(item["id"] for item in predictions).items() if count > 1]
    if doubled:
        raise DataError(
            f"{_arm(predictions)} holds {len(doubled)} doubled ids, "
            f"the first is {min(doubled)}; every row counts once"
        )
    return {item["id"]: item for item in predictions}


def _arm(predictions: Sequence[Prediction]) -> str:
    """The file that holds an arm: of a stage by the arm's name, of `eval.compare` as it was given."""
    name = predictions[0]["arm"] if predictions else "(empty)"
    return name if name.endswith(".jsonl") or "/" in name else f"predictions_{name}.jsonl"
