"""Prediction files of any origin, read row by row: `id`, the group's field, `gold` and `prediction` suffice."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.predictions import Prediction
from finetune.chat import Target
from finetune.errors import ConfigError, DataError

SHOWN = 80
"""Characters of an id that a message repeats."""


@dataclass(frozen=True)
class Wanted:
    """What is read of each row."""

    cluster: str
    """The field that names a row's group."""
    answers: bool
    """Whether `gold` and `prediction` are needed."""
    score: bool
    task: str | None = None
    """Only this task's rows; None where the file has one task."""


def read_predictions(path: Path, wanted: Wanted) -> list[Prediction]:
    """One file's rows, `arm` being the file's name and raw answers left out.

    Raises ConfigError where the file cannot be opened or holds several tasks and none is chosen; DataError with
    file, line and field where a row is broken, an id doubled or the file empty.
    """
    rows: list[Prediction] = []
    lines: dict[str, int] = {}
    for number, row in _objects(path):
        where = f"{path}:{number}"
        if wanted.task is not None and _task(row, where, wanted.task) != wanted.task:
            continue
        found = _prediction(row, where, path, wanted)
        if rows and found["task"] != rows[0]["task"]:
            raise ConfigError(
                f"{path} holds several tasks, such as {rows[0]['task']} and {found['task']}; add --task NAME"
            )
        name = found["id"]
        if lines.setdefault(name, number) != number:
            raise DataError(
                f"{where}: id {name[:SHOWN]} stands on line {lines[name]} already; every row counts once"
            )
        rows.append(found)
    if not rows:
        raise DataError(f"{path} has no rows{f' of task {wanted.task}' if wanted.task else ''}")
    return rows


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number and object; blank lines are passed over."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, _object(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({type(error).__name__}, {len(line)} bytes)") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__} instead of an object")
    return row


def _prediction(row: dict[str, Any], where: str, path: Path, wanted: Wanted) -> Prediction:
    return Prediction(
        id=_name(row, "id", where),
        group=_name(row, wanted.cluster, where),
        document=None,
        task=_task(row, where, ""),
        arm=str(path),
        gold=_gold(row, where) if wanted.answers else "",
        prediction=_answer(row, "prediction", where) if wanted.answers else None,
        raw="",
        score=_score(row, where, wanted.score),
        confidence=None,
        label_scores=None,
    )


def _field(row: dict[str, Any], field: str, where: str) -> Any:
    if field not in row:
        raise DataError(f"{where}: field '{field}' is missing")
    return row[field]


def _name(row: dict[str, Any], field: str, where: str) -> str:
    """An id or a group: text or a whole number."""
    value = _field(row, field, where)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: field '{field}' is {_kind(value)} instead of text or a whole number")
    return value


def _task(row: dict[str, Any], where: str, chosen: str) -> str:
    """The row's task, empty where it names none; a row must name one where one is chosen."""
    value = _field(row, "task", where) if chosen else row.get("task") or ""
    if not isinstance(value, str):
        raise DataError(f"{where}: field 'task' is {_kind(value)} instead of text")
    return value


def _gold(row: dict[str, Any], where: str) -> Target:
    value = _answer(row, "gold", where)
    if value is None or value == "":
        raise DataError(f"{where}: field 'gold' is {_kind(row['gold'])}; every row needs its right answer")
    return value


def _answer(row: dict[str, Any], field: str, where: str) -> Target | None:
    """A text, a list of labels or of spans, or None for an answer that did not parse; numbers count as text."""
    value = _field(row, field, where)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, list) and {type(item) for item in value} in ({str}, {dict}, set()):
        return value
    raise DataError(
        f"{where}: field '{field}' is {_kind(value)} instead of text or a list of labels or spans"
    )


def _score(row: dict[str, Any], where: str, needed: bool) -> float:
    """The row's score; one that is no number is refused even where it is not needed: something broke there."""
    value = _field(row, "score", where) if needed else row.get("score")
    if value is None and not needed:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: field 'score' is {_kind(value)} instead of a finite number")
    return float(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "NaN or infinite"
    return "empty" if value == "" else f"of type {type(value).__name__}"
