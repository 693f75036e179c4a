"""Filled sheets read back: every line is checked against the key, and a problem names file and line, never the text."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.experts.cells import fingerprint, unguarded
from eval.experts.drawing import LEFT, RIGHT
from finetune.artifacts.hashing import sha256_file
from finetune.errors import ConfigError, DataError

BOTH_GOOD, BOTH_BAD = "both good", "both bad"
CHOICES = (LEFT, RIGHT, BOTH_GOOD, BOTH_BAD)
COLUMNS = ("item", "prompt", LEFT, RIGHT, "better", "comment")
NEEDED = COLUMNS[:5]
ITEM = re.compile(r"([0-9a-f]{8})-(\d{1,6})")
SEPARATORS = (",", ";", "\t")
MAX_CELL = 1_000_000


@dataclass(frozen=True)
class Line:
    """One record of a returned file."""

    where: str
    sheet: str
    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Judgement:
    """What one reviewer said of one item; `choice` as given, None where left open."""

    number: int
    choice: str | None
    comment: str


def files_of(given: str) -> list[Path]:
    """The files of FILE=: one, several with commas between, or the .csv files of a folder.

    Raises ConfigError where one is not there or two are the same.
    """
    whole = Path(given)
    paths = [whole] if whole.exists() else [Path(part.strip()) for part in given.split(",") if part.strip()]
    if whole.is_dir():
        paths = sorted(whole.glob("*.csv"))
    if not paths:
        raise ConfigError(f"review.file={given} holds no .csv; name the filled sheets with FILE=")
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"review.file: {path} is not a file; correct FILE=")
        first = seen.setdefault(sha256_file(path), path)
        if first != path or paths.count(path) > 1:
            raise ConfigError(f"review.file: {path} is the same as {first}; give each reviewer's sheet once")
    return paths


def read_lines(path: Path) -> list[Line]:
    """The records of one file, whatever separator the spreadsheet wrote. Raises DataError with file and line."""
    records = _records(path)
    _, header = next(records, (1, []))
    names = [name.strip().casefold() for name in header]
    for name in NEEDED:
        if names.count(name) != 1:
            raise DataError(
                f"{path}:1: column '{name}' is {'missing' if name not in names else 'doubled'}; "
                "change nothing but the columns better and comment"
            )
    lines = [
        _line(f"{path}:{number}", dict(zip(names, record, strict=False)))
        for number, record in records
        if any(value.strip() for value in record)
    ]
    if not lines:
        raise DataError(f"{path} has no items")
    return lines


def sheet_of(files: Sequence[Sequence[Line]]) -> str:
    """The one sheet that all files are of. Raises DataError where they are of several."""
    first = files[0][0]
    for line in (line for lines in files for line in lines):
        if line.sheet != first.sheet:
            raise DataError(
                f"{line.where}: an item of sheet {line.sheet}, but {first.where} is of {first.sheet}"
            )
    return first.sheet


def judged(lines: Sequence[Line], items: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """One reviewer's judgements. Raises DataError for unknown, doubled or edited items and invalid choices."""
    known = {item["item"]: item for item in items}
    places: dict[int, str] = {}
    for line in lines:
        if line.number not in known:
            raise DataError(f"{line.where}: the sheet has no item {line.number}")
        if places.setdefault(line.number, line.where) != line.where:
            raise DataError(
                f"{line.where}: item {line.number} stands at {places[line.number]} already; keep one of them"
            )
        if fingerprint(*(line.cells.get(name, "") for name in COLUMNS[1:4])) != known[line.number]["sha256"]:
            raise DataError(
                f"{line.where}: prompt or answers of item {line.number} are not those that were given out; "
                "copy the reviewer's choice into an unchanged sheet"
            )
    return [
        Judgement(line.number, _choice(line), unguarded(line.cells.get("comment", "").strip()))
        for line in lines
    ]


def _line(where: str, cells: Mapping[str, str]) -> Line:
    found = ITEM.fullmatch(cells.get("item", "").strip().strip("'"))
    if not found:
        raise DataError(f"{where}: column 'item' holds no item of a sheet, such as 0a1b2c3d-07")
    return Line(where, found[1], int(found[2]), cells)


def _choice(line: Line) -> str | None:
    given = " ".join(line.cells.get("better", "").casefold().split())
    if not given:
        return None
    if given not in CHOICES:
        raise DataError(
            f"{line.where}: column 'better' has {len(given)} characters and is none of {', '.join(CHOICES)}; "
            "correct it, or leave it empty"
        )
    return given


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each record with the number of the line on which it begins."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8 (byte {error.start + 1}); in the spreadsheet save it as `CSV UTF-8`"
        ) from None
    heading = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=heading.count)
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    begins = 1
    try:
        for record in reader:
            yield begins, record
            begins = reader.line_num + 1
    except csv.Error:
        raise DataError(f"{path}:{begins}: no CSV record; save the sheet again as `CSV UTF-8`") from None
