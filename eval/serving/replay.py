"""Held-out prompts asked of a server: token ids first, then answers one by one and many at once."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from eval.serving.client import Client, Reply
from eval.serving.inputs import Asked
from finetune.chat import Message
from finetune.config import RunConfig
from finetune.console import progress
from finetune.generate import Answer

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Replay:
    """The answers to all prompts in their order, with so many requests under way at once."""

    concurrency: int
    replies: Sequence[Reply]
    seconds: float
    """From the first request to the last answer."""

    def answers(self) -> list[Answer]:
        """As an arm of an evaluation gives them."""
        return [as_answer(reply) for reply in self.replies]


@dataclass(frozen=True)
class Observed:
    """What a server did: which prompts it reads as other token ids, and unless it does, its answers."""

    version: str | None
    other_prompts: Sequence[int] = ()
    replays: Sequence[Replay] = field(default_factory=tuple)


def observe(
    client: Client, asked: Asked, run: RunConfig, label: str, concurrencies: Sequence[int]
) -> Observed:
    """All prompts' token ids, then all answers, once with each number of requests at a time.

    Nothing is answered where a prompt has other ids: another template or tokenizer makes every figure meaningless.
    """
    version = client.version()
    conversations = [row["messages"] for row in asked.rows]
    other = other_prompts(client, conversations, asked.prompts, run.serve.concurrency, label)
    if other:
        return Observed(version, other)

    def chat(messages: Sequence[Message]) -> Reply:
        return client.chat(messages, run.eval.max_new_tokens)

    # what is compiled at the first answers is not what later ones take
    at_once(chat, conversations[: run.serve.concurrency], run.serve.concurrency, f"{label}: warm-up")
    replays = []
    for concurrency in concurrencies:
        started = time.perf_counter()
        replies = at_once(chat, conversations, concurrency, f"{label}: {concurrency} at once")
        replays.append(Replay(concurrency, replies, time.perf_counter() - started))
    return Observed(version, (), replays)


def other_prompts(
    client: Client,
    conversations: Sequence[Sequence[Message]],
    prompts: Sequence[list[int]],
    concurrency: int,
    label: str,
) -> list[int]:
    """The places of conversations of which the server makes other token ids than training did."""
    ids = at_once(client.prompt_ids, conversations, concurrency, f"{label}: prompt ids")
    return [place for place, (found, own) in enumerate(zip(ids, prompts, strict=True)) if found != own]


def arm_answers(
    ask: Callable[[Item], Reply], items: Sequence[Item], concurrency: int, label: str
) -> list[Answer]:
    """What an arm answers to each item, in order, with its even share of the time."""
    started = time.perf_counter()
    replies = at_once(ask, items, concurrency, label)
    share = (time.perf_counter() - started) / len(items)
    return [as_answer(reply, share) for reply in replies]


def as_answer(reply: Reply, seconds: float | None = None) -> Answer:
    """A server's reply as the model arms give their answers."""
    return Answer(reply.text, reply.confidence, reply.ids, reply.finish == "length", seconds)


def at_once(ask: Callable[[Item], Found], items: Sequence[Item], concurrency: int, label: str) -> list[Found]:
    """What each item gives, in order, so many of them asked at a time; the first error ends it."""
    pool = ThreadPoolExecutor(concurrency)
    try:
        return list(progress(pool.map(ask, items), label, len(items)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # requests that hang break when the server is stopped
