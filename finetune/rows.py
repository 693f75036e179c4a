"""Prepared rows read back, checked against the row contract."""

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.artifacts.hashing import canonical, sha256_text
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


def question_of(row: Mapping[str, Any]) -> str:
    """What a row asks: the text of its last turn, the user's."""
    return str(row["messages"][-1]["content"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of train|val|test.jsonl. Raises DataError with file and line."""
    rows = []
    for place, row in json_lines(path):
        check_row(row, place)
        rows.append(row)
    return rows


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl file, each with its place `file:line`. Raises DataError that never tells the content."""
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            place = f"{path}:{number}"
            yield place, json_object(line, place)


def json_object(line: str, place: str) -> dict[str, Any]:
    """The object that a line is. Raises DataError with its place, kind and length."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({type(error).__name__}, {len(line)} characters)") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: {type(found).__name__} instead of an object")
    return found


def repeats(
    rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """Ids of `rows` that ask what a held-out row asks, and of those that are of its document or group."""
    prompts = {_prompt(row) for row in held_out}
    asked = [str(row["id"]) for row in rows if _prompt(row) in prompts]
    documents = HeldOut(held_out, rows)
    return asked, [str(row["id"]) for row in rows if documents.holds(row)]


def _prompt(row: Mapping[str, Any]) -> str:
    """What is asked, whatever the instruction before it, letter case and white space."""
    turns = [message for message in row["messages"] if message["role"] != "system"]
    return sha256_text(
        canonical([(turn["role"], " ".join(turn["content"].casefold().split())) for turn in turns])
    )


class HeldOut:
    """The documents of the held-out rows, by opaque id and by what their sources hash to."""

    def __init__(self, held_out: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        self.documents = {document_of(row) for row in held_out}
        self.groups = {str(row["group"]) for row in held_out}
        ranges: dict[str, set[Interval]] = {}
        for sha256, start, end in (source for row in held_out for source in _sources(row)):
            ranges.setdefault(sha256, set()).add((start, end))
        # disjoint and in order, so that a table of many rows is searched and not walked through
        self.ranges = {sha256: merged({(0, 0): found}) for sha256, found in ranges.items()}
        several = [
            {sha256 for sha256, found in _documents(side).items() if len(found) > 1}
            for side in (held_out, rows)
        ]
        self.tables = several[0] | several[1]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row's document is among them: its id, its group, its file, or an overlapping part of a table."""
        if document_of(row) in self.documents or str(row["group"]) in self.groups:
            return True
        return any(
            sha256 in self.ranges and (sha256 not in self.tables or self._overlaps(sha256, start, end))
            for sha256, start, end in _sources(row)
        )

    def _overlaps(self, sha256: str, start: int, end: int) -> bool:
        before = bisect_left(self.ranges[sha256], (end, end))  # ranges that begin before this one ends
        return before > 0 and self.ranges[sha256][before - 1][1] > start


def _documents(rows: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The documents that each file holds: a table's are many."""
    documents: dict[str, set[str]] = {}
    for row in rows:
        for sha256, _, _ in _sources(row):
            documents.setdefault(sha256, set()).add(document_of(row))
    return documents


def _sources(row: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    return [(item["sha256"], item["start"], item["end"]) for item in row.get("sources", [])]


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
