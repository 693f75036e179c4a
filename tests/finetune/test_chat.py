import re
from typing import Any

import pytest
from tiny import Letters

from finetune.chat import IGNORE, Message, Renderer, check_row, parse_answer, render_answer
from finetune.errors import ConfigError, DataError

USER: list[Message] = [{"role": "user", "content": "2+2?"}]


def read(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def test_an_answer_of_a_thousand_brackets_does_not_parse() -> None:
    assert parse_answer("[" * 100_000, like=[]) is None


def test_only_the_answer_and_its_end_are_learned() -> None:
    row = Renderer(Letters(), None).row(USER, "4")
    assert read(row.ids) == "[u]2+2?$\n[a]4$"
    assert read([label for label in row.labels if label != IGNORE]) == "4$"
    assert row.labels[:12] == [IGNORE] * 12


def test_training_starts_with_the_very_prompt_that_evaluation_sends() -> None:
    renderer = Renderer(Letters(), None)
    prompt = renderer.prompt_ids(USER)
    assert renderer.row(USER, "4").ids[: len(prompt)] == prompt


def test_a_template_with_todays_date_is_refused_until_a_date_is_fixed() -> None:
    dated = Letters()
    dated.today = True
    with pytest.raises(ConfigError, match=r"set model\.date_string"):
        Renderer(dated, None)
    assert Renderer(dated, "26 Jul 2024").options == {"date_string": "26 Jul 2024"}


def test_a_template_that_never_ends_an_answer_is_refused() -> None:
    endless = Letters()
    endless.eos_token = "%"
    with pytest.raises(ConfigError, match="would never stop"):
        Renderer(endless, None).row(USER, "4")


def test_an_answer_ends_with_whichever_end_token_the_template_uses() -> None:
    gemma_like = Letters()
    gemma_like.eos_token = "%"  # <eos>, while the template ends a turn with another token
    row = Renderer(gemma_like, None, ["%", "$"]).row(USER, "4")
    assert read([label for label in row.labels if label != IGNORE]) == "4$"


def test_a_template_that_refuses_a_role_says_what_to_do() -> None:
    from jinja2 import TemplateError

    class NoSystem(Letters):
        def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
            if conversation[0]["role"] == "system":
                raise TemplateError("System role not supported")
            return super().apply_chat_template(conversation, **kwargs)

    with pytest.raises(ConfigError, match="refuses the roles system, user; .* leave data.system empty"):
        Renderer(NoSystem(), None).prompt_ids([{"role": "system", "content": "s"}, *USER])


def test_a_tokenizer_without_template_is_refused() -> None:
    bare = Letters()
    bare.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        Renderer(bare, None)


def test_the_template_hash_follows_template_and_date() -> None:
    dated = Renderer(Letters(), "26 Jul 2024").template_hash()
    assert dated != Renderer(Letters(), None).template_hash()
    assert re.fullmatch(r"[0-9a-f]{64}", dated)


@pytest.mark.parametrize("target", ["mit OR gpl-2.0", ["a", "b"], [{"start": 0, "end": 3}], []])
def test_parse_answer_inverts_render_answer(target: Any) -> None:
    assert parse_answer(render_answer(target), target) == target


def test_lists_are_compact_json_and_broken_json_is_none() -> None:
    assert render_answer(["ä", "b"]) == '["ä","b"]'
    assert parse_answer('["a"', ["x"]) is None
    assert parse_answer('{"a":1}', ["x"]) is None


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("target", "", "str of length 0"),
        ("messages", [], "list of length 0"),
        ("group", 7, "int"),
        ("id", None, "NoneType"),
    ],
)
def test_a_broken_row_is_named_without_its_content(field: str, value: Any, told: str) -> None:
    row = {
        "id": "i",
        "group": "g",
        "messages": [{"role": "user", "content": "SECRET"}],
        "target": "SECRET",
        field: value,
    }
    with pytest.raises(DataError, match=rf"train\.jsonl:3: field '{field}' is {told}") as error:
        check_row(row, "train.jsonl:3")
    assert "SECRET" not in str(error.value)
