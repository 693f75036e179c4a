"""JSON Lines: one object a line, UTF-8."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import DataError


@dataclass(frozen=True)
class Record:
    """One object of a JSONL file, and where it stands there."""

    fields: dict[str, Any]
    where: str
    """`file:line`, for messages."""
    start: int
    end: int
    """Range of characters in the decoded file, without the line's end."""

    def text(self, field: str) -> str:
        """The filled string of a field. Raises DataError with its type and length, never its content."""
        if field not in self.fields:
            raise DataError(f"{self.where}: field '{field}' is missing; add it")
        value = self.fields[field]
        if not isinstance(value, str):
            raise DataError(f"{self.where}: field '{field}' is {_kind(value)}; it must be a string")
        if not value.strip():
            raise DataError(
                f"{self.where}: field '{field}' is an empty {_kind(value)}; fill it or remove the row"
            )
        if not _is_unicode(value):
            raise DataError(
                f"{self.where}: field '{field}', {_kind(value)}, holds half a surrogate pair; re-encode it"
            )
        return value


def read(path: Path) -> Iterator[Record]:
    """The objects of a file, lazily; blank lines are skipped. Raises DataError with file:line."""
    position = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            where = f"{path}:{number}"
            line = _decoded(raw, where, "utf-8-sig" if number == 1 else "utf-8")
            text = line.rstrip("\r\n")
            if text.strip():
                yield Record(_parsed(text, where), where, position, position + len(text))
            position += len(line)


def _decoded(raw: bytes, where: str, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        ) from None


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON at column {error.colno} of {len(text)} characters") from None
    except (ValueError, RecursionError) as error:  # numbers too long, nesting too deep
        raise DataError(
            f"{where}: unreadable JSON ({type(error).__name__}, {len(text)} characters)"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: {_kind(value)} instead of an object; one JSON object a line")
    return value


def _kind(value: Any) -> str:
    names = {str: "string", list: "list", dict: "object", bool: "boolean", int: "number", float: "number"}
    name = names.get(type(value), "null")
    return f"{name} of length {len(value)}" if isinstance(value, str | list | dict) else name


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
