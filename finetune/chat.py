"""The one renderer of prompts and answers, used by training, evaluation and the served check.

Takes any tokenizer with transformers' `apply_chat_template` and `encode`; imports none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from finetune.artifacts.hashing import sha256_text
from finetune.config.data import DataConfig
from finetune.errors import ConfigError, DataError

IGNORE = -100
"""The label that PyTorch's cross entropy skips."""

Message = Mapping[str, str]
Target = str | list[Any]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that rendering needs."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    all_special_tokens: list[str]
    added_tokens_decoder: dict[int, Any]
    """Tokens beside the vocabulary that are found in any text, by id; as text they read as they are written."""

    def apply_chat_template(self, conversation: Sequence[Message], **kwargs: Any) -> Any: ...

    def encode(self, text: str, **kwargs: Any) -> list[int]: ...

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str: ...


@dataclass(frozen=True)
class Encoded:
    """One training row: token ids, and labels that are IGNORE on the prompt."""

    ids: list[int]
    labels: list[int]


class Renderer:
    """Prompts and answers as token ids under one template and one fixed date.

    `end_tokens` are those that stop generation; an answer is learned up to the one its template ends it with.
    Raises ConfigError where the tokenizer has no chat template or the template prints today's date.
    """

    def __init__(
        self, tokenizer: Tokenizer, date_string: str | None, end_tokens: Sequence[str] | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise ConfigError("the base's tokenizer has no chat template; use an instruct model")
        self.tokenizer = tokenizer
        self.end_tokens = list(end_tokens or filter(None, [tokenizer.eos_token]))
        self.options: dict[str, Any] = {"date_string": date_string} if date_string else {}
        self._refuse_todays_date()

    def template_hash(self) -> str:
        """sha256 of the template and the fixed date: equal hashes give equal prompts."""
        return sha256_text(json.dumps([self.tokenizer.chat_template, self.options]))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to the place where the answer begins."""
        return self.encode(self._text(messages))

    def server_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt as a server makes it: template and tokenizer in one call of the tokenizer's own."""
        options = {"tokenize": True, "return_dict": False, "add_generation_prompt": True, **self.options}
        return list(self.tokenizer.apply_chat_template(messages, **options))

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text, which holds its own marks: none is added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens as they are written."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def texts(self, messages: Sequence[Message], target: Target) -> tuple[str, str]:
        """Prompt and answer as they are rendered; the answer ends with its end token."""
        prompt = self._text(messages)
        return prompt, self._answer_text(prompt, messages, target)

    def row(self, messages: Sequence[Message], target: Target) -> Encoded:
        """The row as trained: prompt ignored, answer and its end token learned.

        The answer is tokenised apart from the prompt, as generation produces it.
        """
        prompt_ids, answer_ids = map(self.encode, self.texts(messages, target))
        return Encoded(prompt_ids + answer_ids, [IGNORE] * len(prompt_ids) + answer_ids)

    def marks_in(self, texts: Iterable[str]) -> list[str]:
        """The marks that stand in texts, where the model would take them for the template's own."""
        found = list(texts)
        return [mark for mark in self.marks.values() if any(mark in text for text in found)]

    @cached_property
    def marks(self) -> dict[int, str]:
        """The tokens that steer: special ones, those that end an answer, added ones that the template writes."""
        template = str(self.tokenizer.chat_template)
        added = [
            str(token)
            for token in self.tokenizer.added_tokens_decoder.values()
            # white space that a vocabulary keeps as a token of its own is text (Gemma)
            if token.special or (str(token) in template and str(token).strip())
        ]
        found = {
            token: self.encode(token)
            for token in [*self.tokenizer.all_special_tokens, *self.end_tokens, *added]
        }
        return {ids[0]: token for token, ids in found.items() if len(ids) == 1}

    def _text(self, messages: Sequence[Message]) -> str:
        return self._render(messages, add_generation_prompt=True, **self.options)

    def _render(self, messages: Sequence[Message], **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except TemplateError:
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"the base's chat template refuses the roles {roles}; where it knows no system role, "
                "leave data.system empty and put the instruction into data.prompt"
            ) from None

    def _answer_text(self, prompt: str, messages: Sequence[Message], target: Target) -> str:
        answer = {"role": "assistant", "content": render_answer(target)}
        whole = self._render([*messages, answer], **self.options)
        if not whole.startswith(prompt):
            raise ConfigError(
                "the chat template renders a prompt differently once it is answered; use another template"
            )
        tail = whole[len(prompt) :]
        stop = max(tail.rfind(end) + len(end) if end in tail else 0 for end in self.end_tokens)
        if not stop:
            raise ConfigError(
                f"the chat template ends an answer with none of the base's end tokens {self.end_tokens}; "
                "the model would never stop"
            )
        return tail[:stop]

    def _refuse_todays_date(self) -> None:
        mark = "\x00today\x00"
        options = {"strftime_now": lambda _format: mark, **self.options}
        text = self._render([{"role": "user", "content": "x"}], add_generation_prompt=True, **options)
        if mark in text:
            raise ConfigError(
                "the chat template prints today's date, so every day has another prompt; set model.date_string"
            )


def messages_of(text: str, question: str, data: DataConfig) -> list[dict[str, str]]:
    """The prompt of one text: the system turn where there is one, and the user's turn."""
    # not str.format: a text or a prompt may hold braces of its own; the text goes last, so that a mark in it stays
    before, mark, after = data.prompt.partition("{text}")
    content = (
        before.replace("{question}", question)
        + (text if mark else "")
        + after.replace("{question}", question)
    )
    user = {"role": "user", "content": content}
    return [{"role": "system", "content": data.system}, user] if data.system else [user]


def render_answer(target: Target) -> str:
    """A string verbatim; a list as compact JSON."""
    return (
        target if isinstance(target, str) else json.dumps(target, separators=(",", ":"), ensure_ascii=False)
    )


def parse_answer(text: str, like: Target) -> Target | None:
    """Inverse of render_answer for a target of the same type as `like`; None where the text does not parse."""
    if isinstance(like, str):
        return text.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a thousand brackets are no answer
        return None
    return value if isinstance(value, list) else None


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Raise DataError naming the field, its type and length, never its content, where a row breaks the contract."""
    for field, kind in (("id", str), ("group", str), ("messages", list), ("target", (str, list))):
        empty = not row.get(field) and not (field == "target" and row.get(field) == [])  # nothing to extract
        if not isinstance(row.get(field), kind) or empty:
            found = row.get(field)
            size = f" of length {len(found)}" if hasattr(found, "__len__") else ""  # type: ignore[arg-type]
            raise DataError(f"{where}: field '{field}' is {type(found).__name__}{size}; it must be filled")
    if not isinstance(row["messages"][-1], dict) or row["messages"][-1].get("role") != "user":
        raise DataError(f"{where}: field 'messages' must end with the user's turn")
