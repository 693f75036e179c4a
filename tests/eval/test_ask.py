"""Own prompts: put as the data set's are, answered by base and adapter, refused in one line where they cannot be."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import build_tokenizer

from data_prep.prepare import prepare
from eval.ask import ask
from eval.evaluate import run as evaluate
from eval.own_prompts import Asked, around, prompt_ids, read_prompts
from eval.side_by_side import Answered, show, summary
from finetune.chat import Renderer
from finetune.config.data import DataConfig
from finetune.errors import ConfigError, DataError
from finetune.generate import Answer
from finetune.model import context_tokens
from finetune.rows import read_rows
from finetune.stage import stage
from finetune.train import run as train

CANARY = "canary-7f3a"
DATA = DataConfig(name="clauses", licence="x", system="Name the type.", prompt="Clause: {text}")


def written(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_text_file_has_a_prompt_a_line_put_as_the_data_sets_rows_are(tmp_path: Path) -> None:
    found = read_prompts(written(tmp_path, "a.txt", "\ufeff{x} pays.\r\n\n  two \n"), DATA)
    assert [(item.where.rpartition(":")[2], item.shown) for item in found] == [
        ("1", "{x} pays."),
        ("3", "two"),
    ]
    assert found[0].messages == [
        {"role": "system", "content": "Name the type."},
        {"role": "user", "content": "Clause: {x} pays."},
    ]
    assert around(found, DATA) == (
        "plain prompts stand as 'Clause: {text}', after the system message 'Name the type.', as in data clauses"
    )


def test_rows_bring_prompts_or_messages_and_what_is_expected(tmp_path: Path) -> None:
    asks = DataConfig(name="c", licence="x", prompt="{question}? {text}")
    rows = [
        {"prompt": "a\nb", "question": "Which", "target": ["x"]},
        {"messages": [{"role": "user", "content": "2+2?"}], "target": "4", "id": "r1"},
    ]
    file = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    first, second = read_prompts(file, asks)
    assert (first.messages, first.target) == ([{"role": "user", "content": "Which? a\nb"}], ["x"])
    assert (second.messages, second.target) == (rows[1]["messages"], "4")
    assert around([second], asks) == "every prompt brings its own messages"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n\n", "a.txt holds no prompt"),
        ("a.txt", b"\xff\xfe" + CANARY.encode("utf-16-le"), r"a.txt is no text in UTF-8 \(byte 1\)"),
        ("a.txt", f"{CANARY}\0", "holds the byte 0"),
        (
            "a.jsonl",
            f'{{"prompt": "x"}}\n{{"{CANARY}',
            r"a.jsonl:2: not JSON \(JSONDecodeError, 13 characters\)",
        ),
        ("a.jsonl", f'["{CANARY}"]', "a.jsonl:1: list instead of an object"),
        (
            "a.jsonl",
            f'{{"text": "{CANARY}"}}',
            "one of the fields 'prompt' and 'messages' is needed, not none",
        ),
        ("a.jsonl", '{"prompt": "a", "messages": []}', "not both"),
        ("a.jsonl", '{"prompt": 3}', "field 'prompt' is of type int"),
        ("a.jsonl", '{"prompt": "  "}', "field 'prompt' is empty"),
        ("a.jsonl", '{"messages": "x"}', "'messages' is no list of turns"),
        ("a.jsonl", '{"messages": [{"role": "root", "content": "x"}]}', "turn 1 of 'messages' has no role"),
        ("a.jsonl", '{"messages": [{"role": "system", "content": "x"}]}', "must end with the user's turn"),
        ("a.jsonl", '{"prompt": "x", "target": 4}', "field 'target' is int"),
    ],
)
def test_what_cannot_be_asked_is_refused_without_its_content(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(written(tmp_path, name, content), DATA)
    assert CANARY not in str(caught.value)


def test_a_prompt_without_the_question_that_the_data_set_asks_is_refused(tmp_path: Path) -> None:
    asks = DataConfig(name="cuad", licence="x", prompt="{question}: {text}")
    with pytest.raises(DataError, match=r"a\.txt:1: data cuad asks a question about each text"):
        read_prompts(written(tmp_path, "a.txt", "text"), asks)


@pytest.mark.parametrize("file", ["none.txt", ".", "a.docx"])
def test_no_such_file_is_a_wrong_command(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ask.file="):
        read_prompts(str(tmp_path / file), DATA)


def test_too_long_prompts_and_marks_are_named_together(tmp_path: Path) -> None:
    renderer = Renderer(build_tokenizer(tmp_path), None)
    texts = ["short", "x" * 40, "a<|end|>b"]
    asked = [
        Asked(f"p:{number}", text, [{"role": "user", "content": text}])
        for number, text in enumerate(texts, 1)
    ]
    with pytest.raises(DataError) as caught:
        prompt_ids(asked, renderer, 20)
    assert caught.value.problems == [
        "p:2: the prompt has 43 tokens, the model takes 20 beside eval.max_new_tokens; shorten it",
        "p:3: the text holds <|end|>, with which the chat template ends or begins turns; take it out",
    ]
    assert [len(ids) for ids in prompt_ids(asked[:2], renderer, None)] == [8, 43]


def answered() -> list[Answered]:
    asked = Asked("p:1", "pay\x1b[2J [b]now[/b]", [], "payment")
    return [
        Answered(asked, {"base": Answer("I think", 0.25, (), True), "adapter": Answer(" payment", 0.875)})
    ]


def test_a_pipe_gets_blocks_with_confidence_and_cut_answers_marked() -> None:
    stream = io.StringIO()
    show(answered(), 100, Console(file=stream, highlight=False, soft_wrap=True))
    assert stream.getvalue().splitlines() == [
        "[1] p:1",
        "pay\\x1b[2J [b]now[/b]",
        "base, confidence 0.25, CUT: I think",
        "adapter, confidence 0.88: payment",
        "expected: payment",
        "",
    ]
    assert list(summary(answered(), 10)) == [
        "answers differ on 1 of 1 prompts; cut at eval.max_new_tokens=10: base 1, adapter 0"
    ]


def test_a_terminal_gets_two_columns_that_wrap() -> None:
    stream = io.StringIO()
    options: dict[str, Any] = {"force_terminal": True, "color_system": None, "width": 60}
    show(answered(), 100, Console(file=stream, highlight=False, **options))
    cells = [line.split("│") for line in stream.getvalue().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[1:3]] for row in cells] == [["I think", "payment"]]
    assert all(len(line) <= 60 for line in stream.getvalue().splitlines())


def test_answers_are_those_of_the_evaluation_and_stay_on_standard_output(
    private: Path,
    argv: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = argv("train.max_steps=2", "tracking.mode=disabled")
    for name, body in (("prepare", prepare), ("train", train), ("eval", evaluate)):
        assert stage(name, body, settings) == 0
    [data] = [path.parent for path in (private / "artifacts/data").rglob("manifest.json")]
    [report] = [path.parent for path in (private / "artifacts/reports").rglob("manifest.json")]
    rows = read_rows(data / "test.jsonl")
    before = {path for path in private.rglob("*") if path.is_file()}
    out = private / "answers.jsonl"

    assert stage("ask", ask, [*settings, f"ask.file={data / 'test.jsonl'}", f"ask.out={out}"]) == 0
    told = [json.loads(line) for line in out.read_text().splitlines()]
    for arm in ("base", "adapter"):
        lines = (report / f"predictions_{arm}.jsonl").read_text().splitlines()
        assert [row["answers"][arm]["text"] for row in told] == [json.loads(line)["raw"] for line in lines]
    assert out.stat().st_mode & 0o777 == 0o600
    written_now = {path for path in private.rglob("*") if path.is_file()} - before - {out}
    text = rows[0]["messages"][-1]["content"]
    assert not [path for path in written_now if text.encode() in path.read_bytes()]
    shown = capsys.readouterr()
    assert text in shown.out
    assert text not in shown.err

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert stage("ask", ask, [*settings, "ask.file=-"]) == 0
    assert "[1] standard input:1\n" + text in capsys.readouterr().out

    assert stage("ask", ask, [*settings, "ask.file=-", f"ask.out={out}"]) == 2
    assert "must be a new file" in capsys.readouterr().err
    assert stage("ask", ask, settings) == 2
    assert "no prompts given; add FILE=" in capsys.readouterr().err
    long = written(private, "long.txt", "x" * 600)
    assert stage("ask", ask, [*settings, f"ask.file={long}"]) == 4
    assert "long.txt:1: the prompt has 603 tokens, the model takes 502" in capsys.readouterr().err


def test_the_longest_sequence_of_a_base_stands_in_its_config_or_is_not_known() -> None:
    assert context_tokens({"max_position_embeddings": 512}) == 512
    assert context_tokens({"model_type": "gemma3", "text_config": {"max_position_embeddings": 8}}) == 8
    assert context_tokens({"model_type": "bloom"}) is None
