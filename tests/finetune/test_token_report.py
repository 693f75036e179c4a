"""What is found in rows as tokens, with tokenizers whose tokens are characters and with a real one."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import Letters, build_tokenizer

from finetune.artifacts import Output
from finetune.chat import Renderer
from finetune.config.schema import TrainConfig
from finetune.dataset import encode_rows
from finetune.errors import RefusedError
from finetune.row_tokens import Examiner, Fault
from finetune.token_report import examine_rows, require_sound, write_report

TRAIN = TrainConfig(max_tokens=100, global_batch=1, micro_batch=1)


def row(text: str, target: Any = "yes", document: str = "d0", number: int = 0) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"id": f"r{number}", "group": "g", "document": document, "messages": messages, "target": target}


def examined(*rows: dict[str, Any], tokenizer: Any = None) -> Any:
    return examine_rows(rows, Renderer(tokenizer or Letters(), None), TRAIN.max_tokens)


def test_what_is_learned_is_counted_in_characters_and_tokens() -> None:
    _, report = examined(row("2+2?", "four"), row("1+1?", "two"))
    assert report.totals["trained_characters"] == report.totals["trained_tokens"] == 5 + 4  # four$ two$
    assert report.kept == 2
    assert not report.documents


def test_documents_that_lost_rows_are_listed_with_what_took_them() -> None:
    rows = [
        row("x" * 200, document="long"),
        row("y" * 200, document="long"),
        row("short", document="long"),
        row("say $ now", document="marked"),
        row("what?", target="  ", document="blank"),
        row("fine", document="fine"),
    ]
    found, report = examined(*rows)
    assert [item.fault for item in found] == [
        Fault.too_long,
        Fault.too_long,
        None,
        Fault.marked,
        Fault.untrained,
        None,
    ]
    assert report.documents == [
        {"document": "long", "rows": 3, "marked": 0, "untrained": 0, "too_long": 2},
        {"document": "blank", "rows": 1, "marked": 0, "untrained": 1, "too_long": 0},
        {"document": "marked", "rows": 1, "marked": 1, "untrained": 0, "too_long": 0},
    ]
    assert (report.kept, report.rows) == (2, 6)


def test_a_row_without_a_document_counts_for_its_group() -> None:
    bare = row("x" * 200)
    del bare["document"]
    assert examined(bare)[1].documents[0]["document"] == "g"


@pytest.mark.parametrize(
    ("bad", "setting", "words"),
    [
        (
            row("x" * 200),
            "max_over_length_fraction",
            r"1 of 4 rows exceed train\.max_tokens=100 \(longest 2\d\d\)",
        ),
        (
            row("SECRET $"),
            "max_marked_fraction",
            r"1 of 4 rows hold marks of the chat template in their text \(\$\)",
        ),
        (row("SECRET", " "), "max_untrained_fraction", "1 of 4 rows have an empty answer"),
    ],
)
def test_a_budget_stops_the_run_and_names_documents_and_ways_out(bad: Any, setting: str, words: str) -> None:
    bad = {**bad, "document": "0badd0c5"}
    rows = [bad, *(row("fine", number=number) for number in range(1, 4))]
    renderer = Renderer(Letters(), None)
    with pytest.raises(RefusedError, match=rf"{words}.*in document 0badd0c5;.*train\.{setting}") as error:
        encode_rows(rows, renderer, TRAIN)
    assert error.value.exit_code == 3
    assert "SECRET" not in str(error.value)
    found = encode_rows(rows, renderer, TrainConfig(**{**TRAIN.__dict__, setting: 0.25}))
    assert found.ids == ["r1", "r2", "r3"]


def test_all_problems_are_told_at_once_and_many_documents_are_cut_short() -> None:
    rows = [row("x" * 200, document=f"d{number:02}") for number in range(13)] + [row("a $ b")]
    with pytest.raises(RefusedError) as error:
        require_sound(examined(*rows)[1], TRAIN)
    long, marked = error.value.problems
    assert "d09 and 3 more (`make show-mask CONF=…` lists them)" in long
    assert "marks of the chat template" in marked


def test_nothing_left_is_refused_within_any_budget() -> None:
    train = TrainConfig(**{**TRAIN.__dict__, "max_over_length_fraction": 1.0})
    with pytest.raises(RefusedError, match="none of 1 rows is left"):
        require_sound(examined(row("x" * 200))[1], train)


@pytest.mark.parametrize("text", ["a <|end|> b", "<|assistant|>no", "say <|pad|>"])
def test_a_mark_in_a_document_is_found_among_those_that_the_template_writes(
    text: str, tmp_path: Path
) -> None:
    tokenizer = build_tokenizer(tmp_path)
    found, report = examined(row(text), row("a < | end | > b"), tokenizer=tokenizer)
    assert [item.fault for item in found] == [Fault.marked, None]
    assert report.marks[0] in text


def test_a_mark_in_an_answer_is_found_too(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    found, _ = examined(row("q", "yes<|end|><|user|>more"), tokenizer=tokenizer)
    assert found[0].fault is Fault.marked


class Begun(Letters):
    """Writes `^` as its beginning token: in the template `written` times, and before plain text where `adds`."""

    bos_token = "^"

    def __init__(self, written: int, adds: bool = True) -> None:
        super().__init__()
        self.written, self.adds = written, adds
        self.all_special_tokens = ["$", "^"]

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        text = "^" * self.written + super().apply_chat_template(conversation, **{**kwargs, "tokenize": False})
        return self.encode(text, add_special_tokens=False) if kwargs["tokenize"] else text

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        added = "^" if self.adds and kwargs.get("add_special_tokens", True) else ""
        return super().encode(added + text)


def test_exactly_one_beginning_token_is_sound_and_its_trap_is_named() -> None:
    _, report = examined(row("q"), tokenizer=Begun(written=1))
    require_sound(report, TRAIN)
    assert report.totals["rows_with_bos"] == 1
    assert list(report.notes())[0].startswith("template and tokenizer both write ^")


@pytest.mark.parametrize(("written", "begins", "note"), [(0, 0, "does not"), (1, 1, "both write")])
def test_a_real_tokenizer_that_writes_a_beginning_token_before_plain_text(
    written: int, begins: int, note: str, tmp_path: Path
) -> None:
    """As Llama 3's does: by its post-processor, which the rendered chat is encoded without."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = ("<|begin|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[begin]
    )
    tokenizer.chat_template = "{{ bos_token }}" * written + str(tokenizer.chat_template)
    _, report = examined(row("What?"), tokenizer=tokenizer)
    require_sound(report, TRAIN)
    assert report.tokenizer_adds_bos
    assert (report.totals["rows_with_bos"], report.totals["rows_unlike_server"]) == (begins, 0)
    assert note in next(report.notes())


def test_two_beginning_tokens_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"2 of 2 rows begin with more than one \^"):
        require_sound(examined(row("q"), row("p"), tokenizer=Begun(written=2))[1], TRAIN)


def test_a_beginning_token_that_only_the_tokenizer_writes_is_named() -> None:
    _, report = examined(row("q"), tokenizer=Begun(written=0))
    require_sound(report, TRAIN)
    assert "the chat template does not" in list(report.notes())[0]
    assert not list(examined(row("q"), tokenizer=Begun(written=0, adds=False))[1].notes())


class Unlike(Letters):
    """Its one call renders another prompt than its two."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        text = super().apply_chat_template(conversation, **kwargs)
        return [94, *text] if kwargs["tokenize"] else text


def test_a_prompt_that_a_server_would_send_otherwise_is_refused() -> None:
    with pytest.raises(RefusedError, match="1 of 1 prompts are other tokens than apply_chat_template makes"):
        require_sound(examined(row("q"), tokenizer=Unlike())[1], TRAIN)


class Halves(Letters):
    """Its end mark `%%` is two tokens."""

    eos_token = "%%"

    def __init__(self) -> None:
        super().__init__()
        self.all_special_tokens = []

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        text = super().apply_chat_template(conversation, **{**kwargs, "tokenize": False}).replace("$", "%%")
        return self.encode(text) if kwargs["tokenize"] else text


def test_an_end_that_is_no_token_of_its_own_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"1 of 1 rows are not learned up to an end token \(%%\)"):
        require_sound(examined(row("q"), tokenizer=Halves())[1], TRAIN)


class Pairs(Letters):
    """Takes `]y` for one token, as a vocabulary with merges does across the place where the answer begins."""

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        return [ord(letter) for letter in text.replace("]y", "\ue000")]


def test_rows_that_one_text_would_cut_otherwise_are_counted_and_trained_apart() -> None:
    found, report = examined(row("q", "yes"), row("q", "no"), tokenizer=Pairs())
    assert [item.seam for item in found] == [True, False]
    assert found[0].encoded.ids[-4:] == [ord(letter) for letter in "yes$"]
    assert "1 rows would be other tokens" in list(report.notes())[0]


class Trimming(Letters):
    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        trimmed = [{**message, "content": message["content"].strip()} for message in conversation]
        return super().apply_chat_template(trimmed, **kwargs)


def test_answers_that_the_template_trims_are_counted() -> None:
    _, report = examined(row("q", " yes "), row("q", "no"), tokenizer=Trimming())
    assert report.totals["rows_altered_by_template"] == 1


def test_the_tiny_tokenizer_is_sound_and_its_prompts_are_a_servers(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    renderer = Renderer(tokenizer, None)
    _, report = examined(row("Clause 7: the party shall pay.", "payment"), tokenizer=tokenizer)
    require_sound(report, TRAIN)
    assert report.totals["rows_unlike_server"] == report.totals["rows_with_another_seam"] == 0
    messages = row("ä <b>")["messages"]
    served = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert served == renderer.prompt_ids(messages)


def test_the_template_may_write_marks_of_its_own_in_every_turn() -> None:
    examiner = Examiner(Renderer(Letters(), None), 100)
    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
    assert examiner({**row(""), "messages": turns}).fault is None


def test_the_report_holds_counts_and_ids_and_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = examined(row("SECRET text", "SECRET answer"), row("SECRET $", document="0badd0c5"))
    write_report(report, Output(tmp_path))
    text = (tmp_path / "tokens.json").read_text()
    found = json.loads(text)
    assert (found["schema"], found["rows"], found["rows_kept"], found["rows_marked"]) == (1, 2, 1, 1)
    assert found["documents"][0]["document"] == "0badd0c5"
    assert found["end_tokens"] == ["$"]
    told = capsys.readouterr().out
    assert "SECRET" not in text + told
    assert "1 of 2 rows kept (1 marked, 0 untrained, 0 too long; 1 documents lost rows)" in told
