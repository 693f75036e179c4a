"""Messages to a server by the OpenAI protocol, with vLLM's additions that give token ids."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from finetune.chat import Message
from finetune.config import RunConfig
from finetune.errors import ConfigError, MachineError

T = TypeVar("T")
UNAUTHORISED = (401, 403)
NOT_FOUND = 404


@dataclass(frozen=True)
class Access:
    """Where a server is and how it is asked. The key is never shown."""

    url: str
    key: str | None = field(repr=False)
    key_name: str
    timeout_s: float
    loopback: bool
    """Then no proxy of the environment's stands between."""


def endpoint(run: RunConfig) -> "Client":
    """A client of serve.url, with the key of the environment variable that the config names."""
    serve = run.serve
    key = os.environ.get(serve.key_from_env)
    access = Access(str(serve.url), key, serve.key_from_env, serve.request_timeout_s, loopback=False)
    return Client(access, serve.model)


@dataclass(frozen=True)
class Reply:
    """One answer: its tokens with the one that ended it, their log-probabilities in nats, and what it took."""

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finish: str
    """`stop` where an end token came, `length` where the limit cut it."""
    seconds: float

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities."""
        return math.exp(sum(self.log_probabilities) / len(self.ids))


class Client:
    """A server's answers. Raises MachineError where it is slow, gone or of another protocol, ConfigError for a key."""

    def __init__(self, access: Access, model: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {access.key}"} if access.key else {}
        self.access = access
        self.http = httpx.Client(
            base_url=access.url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=access.timeout_s,
            trust_env=not access.loopback,
            limits=httpx.Limits(max_connections=None),
        )
        self.model = self._only_model(model)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def version(self) -> str | None:
        """The server's own version; None where it does not tell."""
        try:
            return str(self._ask("GET", "/version")["version"])
        except (MachineError, KeyError):
            return None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that the server makes of a conversation, up to where the answer begins."""
        body = {"model": self.model, "messages": list(messages), "add_generation_prompt": True}
        found = self._ask("POST", "/tokenize", body)
        return self._read("/tokenize", lambda: [int(token) for token in found["tokens"]])

    def chat(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """The likeliest answer to a conversation."""
        return self._answer(
            "/v1/chat/completions", {"messages": list(messages), "logprobs": True}, max_tokens
        )

    def complete(self, prompt: Sequence[int], max_tokens: int) -> Reply:
        """The likeliest continuation of token ids."""
        return self._answer("/v1/completions", {"prompt": list(prompt), "logprobs": 0}, max_tokens)

    def _answer(self, path: str, asked: Mapping[str, Any], max_tokens: int) -> Reply:
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": max_tokens,
            "return_token_ids": True,
            **asked,
        }
        started = time.perf_counter()
        found = self._ask("POST", path, body)
        seconds = time.perf_counter() - started
        return self._read(path, lambda: _reply(found["choices"][0], seconds))

    def _only_model(self, asked: str | None) -> str:
        found = self._ask("GET", "/v1/models")
        names = self._read("/v1/models", lambda: [str(item["id"]) for item in found["data"]])
        if asked is not None and asked in names:
            return asked
        if asked is not None or len(names) != 1:
            wanted = "serve.model is not set" if asked is None else f"serve.model={asked} is not there"
            raise ConfigError(
                f"{self.access.url} serves {', '.join(names) or 'no model'}; {wanted}: name one of them"
            )
        return names[0]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer. An error's text is not shown: a server may repeat the prompt in it."""
        where = f"{self.access.url} {path}"
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.TimeoutException:
            raise MachineError(
                f"{where} did not answer within serve.request_timeout_s={self.access.timeout_s:g}; look at the "
                "server, or raise it"
            ) from None
        except httpx.HTTPError as error:
            raise MachineError(f"{where}: {type(error).__name__}; is the server there?") from None
        if answer.status_code in UNAUTHORISED:
            raise ConfigError(
                f"{where} refuses the key ({answer.status_code}); set the environment variable "
                f"{self.access.key_name}, which serve.key_from_env names"
            )
        if answer.status_code == NOT_FOUND:
            raise MachineError(f"{where} is not there (404); the check needs vLLM's OpenAI server")
        if not answer.is_success:
            raise MachineError(f"{where} answers with status {answer.status_code}; the server's log says why")
        return self._read(path, answer.json)

    def _read(self, path: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise MachineError(
                f"{self.access.url} {path} answers in another form ({type(error).__name__}); the check needs vLLM's "
                "OpenAI server, 0.10.2 or newer, for token ids and log-probabilities"
            ) from None


def _reply(choice: Mapping[str, Any], seconds: float) -> Reply:
    ids = tuple(int(token) for token in choice["token_ids"])
    found = choice["logprobs"]
    values = (
        found["token_logprobs"]
        if "token_logprobs" in found
        else [item["logprob"] for item in found["content"]]
    )
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    reply = Reply(text or "", ids, tuple(map(float, values)), str(choice["finish_reason"]), seconds)
    if not ids or len(values) != len(ids):
        raise ValueError("as many log-probabilities as tokens")
    return reply
