"""What a server answers, and one line for each way in which it does not."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eval.serving.client import Access, Client, Reply, _reply
from eval.serving.server import Limits, serving
from finetune.errors import ConfigError, MachineError

SMALL = Path(__file__).resolve().parents[2] / "small_server.py"
PROMPT = [{"role": "user", "content": "CONFIDENTIAL-4711"}]


@contextmanager
def client(
    folder: Path, behaviour: str, key: str | None = None, timeout_s: float = 30.0, model: str | None = None
) -> Iterator[Client]:
    command = [sys.executable, str(SMALL), behaviour, str(folder / "pids")]
    with serving(command, dict(os.environ), folder / "log", Limits(None, 60.0)) as running:
        access = Access(running.url + "/v1/", key, "OUR_KEY", timeout_s, loopback=True)
        with Client(access, model) as found:
            yield found


def test_prompt_ids_version_and_the_only_model(tmp_path: Path) -> None:
    with client(tmp_path, "healthy") as found:
        assert (found.model, found.version(), found.prompt_ids(PROMPT)) == ("m", "9", [1, 2, 3])


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("slow", "/tokenize did not answer within serve.request_timeout_s=1"),
        ("dies_when_asked", "is the server there?"),
        ("repeats_the_prompt", "answers with status 400; the server's log says why"),
        ("other_form", "answers in another form (KeyError); the check needs vLLM's"),
        ("no_tokenize", "/tokenize is not there (404); the check needs vLLM's OpenAI server"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_prompt(tmp_path: Path, behaviour: str, told: str) -> None:
    with client(tmp_path, behaviour, timeout_s=1.0) as found, pytest.raises(MachineError) as caught:
        found.prompt_ids(PROMPT)
    assert told in str(caught.value)
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_goes_along_and_is_named_by_its_variable_alone(tmp_path: Path) -> None:
    with client(tmp_path, "locked", key="s3cret") as found:
        assert found.prompt_ids(PROMPT) == [1, 2, 3]
    with client(tmp_path, "locked", key="wr0ng") as found, pytest.raises(ConfigError) as caught:
        found.prompt_ids(PROMPT)
    assert "refuses the key (401); set the environment variable OUR_KEY" in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in repr(found.access)


@pytest.mark.parametrize(
    ("model", "told"), [(None, "serve.model is not set"), ("c", "serve.model=c is not there")]
)
def test_of_several_models_one_must_be_named(tmp_path: Path, model: str | None, told: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"serves a, b; {told}: name one"),
        client(tmp_path, "two_models", model=model),
    ):
        pass


def test_an_answer_has_as_many_log_probabilities_as_tokens() -> None:
    chosen = {"token_ids": [5, 2], "finish_reason": "stop", "message": {"content": "x"}}
    values = {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}
    reply = _reply({**chosen, "logprobs": values}, 0.25)
    assert reply == Reply("x", (5, 2), (-0.5, -1.5), "stop", 0.25)
    assert reply.confidence == pytest.approx(0.36787944)  # e^-1
    with pytest.raises(ValueError, match="as many"):
        _reply({**chosen, "logprobs": {"content": [{"logprob": -0.5}]}}, 0.25)
