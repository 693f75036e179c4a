"""One record of a table, and what its fields may hold."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from finetune.errors import DataError

KINDS = {
    str: "string",
    list: "list",
    dict: "object",
    bool: "boolean",
    bytes: "binary value",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands for a value that no field can use, such as an image: it is named, not carried."""

    kind: str


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of one row, and where it stands in its file."""

    fields: dict[str, Any]
    where: str
    """`file:line` or `file:row n`, for messages."""
    start: int
    end: int
    """Range of characters in the decoded file, without the line's end; of rows where the format has no characters."""

    def text(self, field: str) -> str:
        """The filled string of a field. Raises DataError with its type and length, never its content."""
        value = self._value(field)
        if not isinstance(value, str):
            raise self._wrong(field, f"is {kind_of(value)}; it must be a string")
        return self._filled(field, value)

    def optional(self, field: str) -> str | None:
        """The string of a field, None where it is null or blank. Raises DataError where it is missing, or no string."""
        value = self._value(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return self.text(field)

    def key(self, field: str) -> str:
        """The field as a key: a string without its outer blanks, a whole number or a date. Raises DataError."""
        value = self._value(field)
        if isinstance(value, str):
            return self._filled(field, value).strip()
        if isinstance(value, date):
            return value.isoformat()
        # a column of numbers with a gap comes as 12.0
        if _is_number(value) and math.isfinite(value) and value == int(value):
            return str(int(value))
        raise self._wrong(field, f"is {kind_of(value)}; it must be a string, a whole number or a date")

    def labels(self, field: str, separator: str | None) -> str | list[str]:
        """One label; a list of them, each once and in order, from a list or from a string with `separator`.

        Raises DataError where there is none or one is no filled string.
        """
        value = self._value(field)
        if isinstance(value, list):
            return self._labels_of(field, value)
        text = self.text(field).strip()
        if separator is None:
            return text
        return self._labels_of(field, [part for part in text.split(separator) if part.strip()])

    def time(self, field: str) -> str:
        """The field's date or time in ISO 8601, in UTC where it has a zone. Raises DataError for anything else."""
        value = self._value(field)
        try:
            # datetime first: it is a date too
            found = value if isinstance(value, date) else _time_of(value)
            return (_in_utc(found) if isinstance(found, datetime) else found).isoformat()
        except (TypeError, ValueError, OverflowError):
            allowed = "it must be an ISO date or time such as 2024-05-31 or 2024-05-31T09:30:00Z"
            raise self._wrong(field, f"is {kind_of(value)}; {allowed}") from None

    def _value(self, field: str) -> Any:
        if field not in self.fields:
            raise self._wrong(field, "is missing; add it")
        return self.fields[field]

    def _filled(self, field: str, value: str) -> str:
        if not value.strip():
            raise self._wrong(field, f"is an empty {kind_of(value)}; fill it or remove the row")
        if not _is_unicode(value):
            raise DataError(
                f"{self.where}: field '{field}', {kind_of(value)}, holds half a surrogate pair; re-encode it"
            )
        return value

    def _labels_of(self, field: str, values: list[Any]) -> list[str]:
        return list(dict.fromkeys(self._label_texts(field, values)))

    def _label_texts(self, field: str, values: list[Any]) -> Iterator[str]:
        if not values:
            raise self._wrong(field, "holds no label; add one or remove the row")
        for number, value in enumerate(values, 1):
            if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
                what = f"has {kind_of(value)} as label {number}"
                raise self._wrong(field, f"{what}; each must be a filled string of valid Unicode")
            yield value.strip()

    def _wrong(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: field '{field}' {problem}")


def kind_of(value: Any) -> str:
    """A value's type and length in a user's words: what a message may say of private content."""
    if isinstance(value, Unusable):
        return value.kind
    if isinstance(value, date):
        return "date"
    if _is_number(value):
        return "number"
    name = KINDS.get(type(value), "another type")
    return f"{name} of length {len(value)}" if isinstance(value, str | list | dict | bytes) else name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _time_of(value: Any) -> date:
    if not isinstance(value, str):
        raise TypeError
    text = value.strip()
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is None else moment.astimezone(UTC)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
