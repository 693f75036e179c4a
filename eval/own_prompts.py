"""One's own prompts, read from a file or standard input and put as the rows of the data set are."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.chat import Message, Renderer, Target, messages_of
from finetune.config.data import DataConfig
from finetune.console import say
from finetune.errors import ConfigError, DataError
from finetune.rows import json_object

STDIN, TEXT, ROWS = "-", ".txt", ".jsonl"
QUESTION = "{question}"


@dataclass(frozen=True)
class Asked:
    """One prompt: where it stands, what is shown of it, what the model gets, and the expected answer where one is."""

    where: str
    shown: str
    messages: Sequence[Message]
    target: Target | None = None
    plain: bool = False
    """Whether only a text was given, around which stands what the data set has there."""


def read_prompts(file: str, data: DataConfig) -> list[Asked]:
    """The prompts of a .txt (one a line), a .jsonl (`prompt` or `messages` a row) or `-`, blank lines passed over.

    Raises ConfigError where the file cannot be read or is of no such kind, DataError with file and line where a
    prompt cannot be used.
    """
    if file != STDIN and Path(file).suffix not in (TEXT, ROWS):
        raise ConfigError(
            f"ask.file={file} must end with {TEXT} (one prompt a line) or {ROWS}, or be - for standard input"
        )
    name = "standard input" if file == STDIN else file
    as_rows = Path(file).suffix == ROWS
    asked = [
        _row(line, f"{name}:{number}", data) if as_rows else _plain(line, "", f"{name}:{number}", data)
        for number, line in enumerate(_text(file, name).split("\n"), 1)
        if line.strip()
    ]
    if not asked:
        raise DataError(f"{name} holds no prompt")
    return asked


def around(asked: Sequence[Asked], data: DataConfig) -> str:
    """What stands around the plain prompts, in one line."""
    if not any(item.plain for item in asked):
        return "every prompt brings its own messages"
    system = f"after the system message {data.system!r}" if data.system else "without a system message"
    return f"plain prompts stand as {data.prompt!r}, {system}, as in data {data.name}"


def prompt_ids(asked: Sequence[Asked], renderer: Renderer, room: int | None) -> list[list[int]]:
    """The token ids of every prompt; `room` is the most that the model takes beside its answer, None: not known.

    Raises DataError naming all that are too long, or hold the chat template's own marks.
    """
    found = [renderer.prompt_ids(item.messages) for item in asked]
    problems = [
        f"{item.where}: the prompt has {len(ids)} tokens, the model takes {room} beside eval.max_new_tokens; shorten it"
        for item, ids in zip(asked, found, strict=True)
        if room is not None and len(ids) > room
    ]
    for item in asked:
        marks = renderer.marks_in(message["content"] for message in item.messages)
        if marks:
            problems.append(
                f"{item.where}: the text holds {', '.join(marks)}, with which the chat template ends or begins turns; "
                "take it out"
            )
    if problems:
        raise DataError(problems)
    return found


def _text(file: str, name: str) -> str:
    if file == STDIN and sys.stdin.isatty():
        say("one prompt a line; Ctrl-D ends")
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"ask.file={file} cannot be read: {error.strerror}; correct FILE=") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no text in UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    if "\x00" in text:
        raise DataError(f"{name} is no text: it holds the byte 0")
    return text.replace("\r\n", "\n")


def _row(line: str, where: str, data: DataConfig) -> Asked:
    row = json_object(line, where)
    if ("prompt" in row) == ("messages" in row):
        raise DataError(
            f"{where}: one of the fields 'prompt' and 'messages' is needed, not {'both' if 'prompt' in row else 'none'}"
        )
    target = row.get("target")
    if target is not None and not isinstance(target, (str, list)):
        raise DataError(f"{where}: field 'target' is {type(target).__name__} instead of a text or a list")
    if "messages" in row:
        messages = _messages(row["messages"], where)
        return Asked(where, _shown(messages), messages, target)
    question = _filled(row["question"], "question", where) if "question" in row else ""
    plain = _plain(_filled(row["prompt"], "prompt", where), question, where, data)
    return replace(plain, target=target)


def _plain(text: str, question: str, where: str, data: DataConfig) -> Asked:
    """A prompt of which only the text is given."""
    if QUESTION in data.prompt and not question:
        raise DataError(
            f"{where}: data {data.name} asks a question about each text; give rows of {ROWS} "
            'as {"prompt": …, "question": …}'
        )
    text = text.strip()
    shown = f"{question}\n{text}" if question else text
    return Asked(where, shown, messages_of(text, question, data), plain=True)


def _messages(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: field 'messages' is no list of turns")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise DataError(f"{where}: turn {number} of 'messages' has no role system, user or assistant")
        _filled(turn.get("content"), f"messages[{number - 1}].content", where)
    if value[-1]["role"] != "user":
        raise DataError(f"{where}: field 'messages' must end with the user's turn")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _shown(messages: Sequence[Message]) -> str:
    """The user's turn; of a longer conversation every turn with its role."""
    turns = [turn for turn in messages if turn["role"] != "system"]
    return "\n".join(_spoken(turns)) if len(turns) > 1 else turns[0]["content"]


def _spoken(turns: Sequence[Message]) -> Iterator[str]:
    for turn in turns:
        yield f"{turn['role']}: {turn['content']}"


def _filled(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "empty" if isinstance(value, str) else f"of type {type(value).__name__}"
        raise DataError(f"{where}: field '{field}' is {found} instead of a text")
    return value
