"""The items of held-out and public sets, as the texts by which a copy of them is recognised."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

from data_prep.readers import jsonl
from data_prep.readers.extracted import UnreadableError
from data_prep.readers.text import decoded
from finetune.config.data import LimitsConfig
from finetune.errors import DataError

WORD = re.compile(r"\w+")
LEAST_FRAMED = 5
"""So many rows show what the prompt around their texts is."""


@dataclass(frozen=True, slots=True)
class ReferenceItem:
    """A row or file of a held-out set: all of its text, then each long field by itself."""

    name: str
    number: int
    """From 1; blank lines are not counted."""
    texts: tuple[str, ...]


def read_items(path: Path, name: str, long_words: int) -> list[ReferenceItem]:
    """The items of a .jsonl file, one a line, or of a .txt file, which is one.

    A row's text is its strings, nested ones too, that hold white space: ids, keys and categories do not. Of a row
    with `messages` it is those after the system's, without what all rows share around them, and the target. A string
    of `long_words` or more also counts by itself, unless rows share it: a question is found without its answer.
    Raises DataError naming a file that is missing, unreadable or of another kind.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise DataError(f"{path}: data.contamination.references takes .jsonl and .txt files")
    if not path.is_file():
        raise DataError(f"{path}: no such file; it is named by data.contamination.references")
    if path.suffix == ".txt":
        return [ReferenceItem(name, 1, (_composed(_file_text(path)),))]
    rows = [[_composed(string) for string in strings] for strings in _rows(path)]
    holders = Counter(string for strings in rows for string in set(strings))
    return [
        ReferenceItem(name, number, ("\n".join(strings), *_alone(strings, holders, long_words)))
        for number, strings in enumerate(rows, 1)
    ]


def _file_text(path: Path) -> str:
    try:
        return decoded(path.read_bytes())[0]
    except UnreadableError as error:
        raise DataError(f"{path}: {error.reason}; save it as UTF-8 text") from None


def _rows(path: Path) -> list[list[str]]:
    records = [record.fields for record in jsonl.read(path, LimitsConfig())]
    if not records or not all(isinstance(record.get("messages"), list) for record in records):
        return [list(_strings(record)) for record in records]
    asked = _without_frame([_conversation(record["messages"]) for record in records])
    return [[text, *_strings(record.get("target"))] for text, record in zip(asked, records, strict=True)]


def _strings(value: Any) -> Iterator[str]:
    """The strings of more than one word in a value, to any depth."""
    if isinstance(value, str):
        if len(value.split(maxsplit=1)) > 1:
            yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _conversation(messages: list[Any]) -> str:
    turns = [turn for turn in messages if isinstance(turn, dict) and turn.get("role") != "system"]
    return "\n".join(turn["content"] for turn in turns if isinstance(turn.get("content"), str))


def _without_frame(texts: list[str]) -> list[str]:
    """The texts without the words that all begin and end with: the prompt, which would thin out a short text."""
    if len(set(texts)) < LEAST_FRAMED:
        return texts
    split = [re.split(r"(\s+)", text) for text in texts]
    before = len(commonprefix(split))
    after = len(commonprefix([parts[before:][::-1] for parts in split]))
    return ["".join(parts[before : len(parts) - after]) for parts in split]


def _alone(strings: list[str], holders: Counter[str], long_words: int) -> Iterator[str]:
    for string in strings:
        if len(strings) > 1 and holders[string] == 1 and len(WORD.findall(string)) >= long_words:
            yield string


def _composed(text: str) -> str:
    """NFC, as training texts are, with half surrogates replaced."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
