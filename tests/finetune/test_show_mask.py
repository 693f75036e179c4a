"""What a person sees before training: on a terminal, through a pipe, and with rows that would be refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import Letters, build_tokenizer

from data_prep.prepare import prepare
from finetune.chat import Renderer
from finetune.config import load
from finetune.config.schema import ShowConfig
from finetune.console import shortened, visible
from finetune.errors import ConfigError
from finetune.mask_view import chosen, show_rows, spans
from finetune.rows import read_rows
from finetune.show_mask import show
from finetune.stage import stage
from finetune.token_report import examine_rows

COLOURS: dict[str, Any] = {"force_terminal": True, "color_system": "standard"}
GREEN, MAGENTA, DIM = "\x1b[1;32m", "\x1b[35m", "\x1b[2m"


def row(text: str, number: int = 0) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"id": f"r{number}", "group": "g", "document": "d7", "messages": messages, "target": "four"}


def shown(rows: list[dict[str, Any]], tokenizer: Any, **options: Any) -> str:
    renderer, stream = Renderer(tokenizer, None), io.StringIO()
    found, _ = examine_rows(rows, renderer, 500)
    console = Console(file=stream, highlight=False, soft_wrap=True, **options)
    show_rows(found, renderer, ShowConfig(), console)
    return stream.getvalue()


def test_spans_tell_prompt_marks_answer_and_its_end_apart(tmp_path: Path) -> None:
    renderer = Renderer(build_tokenizer(tmp_path), None)
    found = list(spans(renderer.row(row("2+2?")["messages"], "vierä"), renderer))
    assert [(span.text, span.learned, span.special) for span in found] == [
        ("<|user|>", False, True),
        ("2+2?", False, False),
        ("<|end|><|assistant|>", False, True),
        ("vierä", True, False),
        ("<|end|>", True, True),
    ]


def test_a_pipe_gets_brackets_and_no_colour(tmp_path: Path) -> None:
    heading, text, *_ = shown([row("2+2?")], build_tokenizer(tmp_path), force_terminal=False).splitlines()
    assert text == "<|user|>2+2?<|end|><|assistant|>⟦four<|end|>⟧"
    assert heading == (
        "row r0, document d7; 12 tokens, 5 learned; the tokenizer has no beginning token; "
        "ends with a learned end token; the prompt is what a server sends"
    )


def test_a_terminal_gets_colours_and_no_brackets(tmp_path: Path) -> None:
    text = shown([row("2+2?")], build_tokenizer(tmp_path), **COLOURS)
    assert f"{GREEN}four" in text
    assert f"{MAGENTA}<|user|>" in text
    assert f"{DIM}2+2?" in text
    assert "⟦" not in text
    assert "⟦" in shown([row("2+2?")], build_tokenizer(tmp_path), **COLOURS, no_color=True)


def test_a_document_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[2Jb\tc\r\nä") == "a\\x1b[2Jb\\tc\\r\nä"
    assert "[bold]x[/bold]" in shown([row("[bold]x[/bold] \x1b[31m")], Letters(), force_terminal=False)
    assert "\x1b[31m" not in shown([row("\x1b[31m")], Letters(), **COLOURS)


def test_a_long_prompt_is_shortened_with_a_count() -> None:
    assert shortened("abcdefghij", 4) == "ab […6 characters…] ij"
    assert shortened("abcd", 4) == "abcd"


def test_rows_are_chosen_by_number_or_id() -> None:
    found, _ = examine_rows([row("q", number) for number in range(5)], Renderer(Letters(), None), 100)
    assert [item.id for item in chosen(found, ShowConfig())] == ["r0", "r1", "r2"]
    assert [item.id for item in chosen(found, ShowConfig(ids=["r4", "r1"]))] == ["r4", "r1"]
    with pytest.raises(ConfigError, match=r"show\.ids: r9 is no training row"):
        chosen(found, ShowConfig(ids=["r9"]))


def test_the_command_works_before_training_and_writes_no_text(
    private: Path, argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare(load(argv()))
    first = read_rows(made.path("train.jsonl"))[1]
    before = {path for path in private.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert stage("show-mask", show, argv(f"show.ids=[{first['id']}]")) == 0
    out, err = capsys.readouterr()
    assert f"{first['messages'][0]['content']}<|end|><|assistant|>⟦{first['target']}<|end|>⟧" in out
    assert out.count("⟦") == 1
    assert "rows kept                │ 24" in out
    assert "private text follows, on standard output alone" in err
    written = {path for path in private.rglob("*") if path.is_file()} - before
    assert not [path for path in written if first["messages"][0]["content"].encode() in path.read_bytes()]


def test_what_training_would_refuse_is_shown_and_refused(
    private: Path, argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = private / "data" / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line in lines:
        line["text"] += " <|end|>" if "lease" in line["text"] else ""
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare(load(argv()))
    capsys.readouterr()
    assert stage("show-mask", show, argv()) == 3
    out, err = capsys.readouterr()
    assert "Documents that lost rows" in out
    assert "rows hold marks of the chat template in their text (<|end|>), in documents" in err
    assert stage("show-mask", show, argv("train.max_marked_fraction=0.5")) == 0


def test_without_prepared_rows_the_command_says_what_to_run(
    private: Path, argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage("show-mask", show, argv()) == 2
    assert "run `make prepare CONF=tiny`" in capsys.readouterr().err
