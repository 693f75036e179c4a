"""JSON Lines: one object a line, UTF-8."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.readers.lines import lines
from data_prep.readers.record import Record, kind_of
from finetune.config.data import LimitsConfig
from finetune.errors import DataError


def read(path: Path, limits: LimitsConfig) -> Iterator[Record]:
    """The objects of a file, lazily; blank lines are skipped. Raises DataError with file:line."""
    position = 0
    for number, line in enumerate(lines(path, limits.characters), 1):
        text = line.rstrip("\r\n")
        if text.strip():
            where = f"{path}:{number}"
            yield Record(_parsed(text, where), where, position, position + len(text))
        position += len(line)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON at column {error.colno} of {len(text)} characters") from None
    except DuplicateFieldError:
        raise DataError(f"{where}: a field stands twice in one object; keep one of them") from None
    except (ValueError, RecursionError) as error:  # numbers too long, nesting too deep
        raise DataError(
            f"{where}: unreadable JSON ({type(error).__name__}, {len(text)} characters)"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: {kind_of(value)} instead of an object; one JSON object a line")
    return value


class DuplicateFieldError(ValueError):
    """An object that holds a field twice: json would keep the last one and say nothing."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise DuplicateFieldError
    return fields
