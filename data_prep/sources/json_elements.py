"""A JSON object of lists, element by element: each with its place in the file, none held longer than it is used."""

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import DataError

DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Element:
    """One element of one of the lists."""

    name: str
    """The list's key."""
    value: Any
    start: int
    end: int
    """Range of characters in the decoded file."""
    where: str
    """`file: element n of 'name'`, for messages."""


def elements(path: Path) -> Iterator[Element]:
    """The elements of every list of the file's object, in its order; what is no list is passed over.

    Raises DataError with the place where the file is not such JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: not readable: {(error.strerror or 'unknown error').lower()}") from None
    position = _after(text, 0, "{", path)
    while text[position : position + 1] != "}":
        name, position = _value(text, position, path)
        position = _after(text, position, ":", path)
        if text[position : position + 1] == "[":
            position = yield from _list(text, position, str(name), path)
        else:
            _, position = _value(text, position, path)
        position = _next(text, position, "}", path)


def _list(text: str, position: int, name: str, path: Path) -> Generator[Element, None, int]:
    """Yields the elements; returns the position behind the list."""
    position, number = _after(text, position, "[", path), 0
    while text[position : position + 1] != "]":
        number += 1
        value, end = _value(text, position, path)
        yield Element(name, value, position, end, f"{path}: element {number} of '{name}'")
        position = _next(text, end, "]", path)
    return position + 1


def _value(text: str, position: int, path: Path) -> tuple[Any, int]:
    try:
        value, end = DECODER.raw_decode(text, position)
        if "\\u" in text[position:end]:  # the file is UTF-8: only an escape can be half a pair
            json.dumps(value, ensure_ascii=False).encode()
        return value, end
    except json.JSONDecodeError as error:
        raise _broken(path, error.pos, text) from None
    except UnicodeEncodeError:
        raise DataError(
            f"{path}: half a surrogate pair in the value at character {position + 1} of {len(text)}; re-encode it"
        ) from None
    except (ValueError, RecursionError):  # numbers too long, nesting too deep
        raise _broken(path, position, text) from None


def _after(text: str, position: int, mark: str, path: Path) -> int:
    """The position of what follows the mark, which must come next."""
    position = _blank(text, position)
    if text[position : position + 1] != mark:
        raise _broken(path, position, text)
    return _blank(text, position + 1)


def _next(text: str, position: int, closing: str, path: Path) -> int:
    """The position of the next member, or of the closing mark."""
    position = _blank(text, position)
    return position if text[position : position + 1] == closing else _after(text, position, ",", path)


def _blank(text: str, position: int) -> int:
    found = BLANK.match(text, position)
    return found.end() if found else position


def _broken(path: Path, position: int, text: str) -> DataError:
    return DataError(f"{path}: broken JSON at character {position + 1} of {len(text)}; one object of lists")
