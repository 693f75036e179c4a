"""Prepared rows read back, checked against the row contract."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.chat import check_row
from finetune.errors import DataError

Interval = tuple[int, int]

DATA = "data"
"""The key that names a row's data set where several are mixed; no file holds it."""


def data_of(row: Mapping[str, Any]) -> str:
    """The data set that a row of a mix came from; empty without a mix."""
    return str(row.get(DATA, ""))


def document_of(row: Mapping[str, Any]) -> str:
    """The opaque id of a row's source document, or of its group where no document is named."""
    return str(row.get("document") or row["group"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of train|val|test.jsonl. Raises DataError with file and line."""
    rows = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: not JSON ({type(error).__name__}, {len(line)} characters)"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: {type(row).__name__} instead of an object")
            check_row(row, f"{path}:{number}")
            rows.append(row)
    return rows


def merged(answers: Mapping[Interval, Iterable[Interval]]) -> list[Interval]:
    """The passages of the whole text, from each window's range and the ranges found in it, which count from its start.

    Passages that overlap or touch are one: neighbouring windows see the same words.
    """
    found: list[Interval] = []
    for start, end in sorted(
        (at + start, at + end) for (at, _), inside in answers.items() for start, end in inside
    ):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found
