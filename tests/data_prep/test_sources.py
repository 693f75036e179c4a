"""Readers and sources: what a broken row says, and what ScanCode's rules become."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from data_prep.rows import Document, Drop
from data_prep.sources import open_source
from finetune.config.schema import DataConfig, PathsConfig, RunConfig, SourceConfig, SourceKind
from finetune.errors import DataError, MachineError

MakeRun = Callable[..., RunConfig]
GOOD = '{"text": "secret words", "target": "rent"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "secret', "t.jsonl:2: broken JSON at column 10 of 16 characters"),
        ('["secret"]', "t.jsonl:2: list of length 1 instead of an object"),
        ('{"target": "secret"}', "t.jsonl:2: field 'text' is missing"),
        ('{"text": "secret"}', "t.jsonl:2: field 'target' is missing"),
        (
            '{"text": ["secret"], "target": "x"}',
            "t.jsonl:2: field 'text' is list of length 1; it must be a string",
        ),
        ('{"text": "secret", "target": 7}', "t.jsonl:2: field 'target' is number; it must be a string"),
        ('{"text": null, "target": "secret"}', "t.jsonl:2: field 'text' is null; it must be a string"),
        ('{"text": " \\n", "target": "secret"}', "t.jsonl:2: field 'text' is an empty string of length 2"),
        (
            '{"text": "secret\\ud800", "target": "x"}',
            "t.jsonl:2: field 'text', string of length 7, holds half a",
        ),
        (
            '{"text": "secret", "target": ' + "9" * 5000 + "}",
            "t.jsonl:2: unreadable JSON (ValueError, 5030 char",
        ),
        ("[" * 200_000, "t.jsonl:2: unreadable JSON (RecursionError, 200000 characters)"),
    ],
)
def test_a_broken_row_names_file_line_and_field_but_not_its_content(
    make_run: MakeRun, line: str, message: str
) -> None:
    with pytest.raises(DataError) as refused:
        prepare(make_run(GOOD + line + "\n"))
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_group_key_is_needed_where_one_is_configured_and_may_be_a_number(make_run: MakeRun) -> None:
    run = make_run('{"text": "a b", "target": "x", "contract": 12}\n' + GOOD, group_field="contract")
    found = open_source(run.data, run.paths).read()
    first = next(found)
    assert isinstance(first, Document)
    assert first.groups == ("12",)
    with pytest.raises(DataError, match=r"t\.jsonl:2: field 'contract' is missing"):
        next(found)


def test_bytes_that_are_not_utf8_name_their_line(make_run: MakeRun) -> None:
    run = make_run(GOOD)
    (Path(run.paths.data_root) / "t.jsonl").write_bytes(
        GOOD.encode() + b'{"text": "caf\xe9", "target": "x"}\n'
    )
    with pytest.raises(DataError, match=r"t\.jsonl:2: not UTF-8 at byte 14"):
        prepare(run)


def test_positions_count_characters_and_a_byte_order_mark_is_no_text(make_run: MakeRun) -> None:
    run = make_run('\ufeff{"text": "§ 1", "target": "x"}\n\n{"text": "b", "target": "y"}\n')
    found = [item.origin for item in open_source(run.data, run.paths).read()]
    assert [(origin.start, origin.end) for origin in found] == [(0, 30), (32, 60)]


def test_a_missing_and_an_empty_table_say_so(make_run: MakeRun) -> None:
    run = make_run("")
    with pytest.raises(DataError, match=r"t\.jsonl is empty"):
        prepare(run)
    run = make_run("\n\n")
    with pytest.raises(DataError, match=r"t\.jsonl holds no document"):
        prepare(run)
    (Path(run.paths.data_root) / "t.jsonl").unlink()
    with pytest.raises(DataError, match=r"t\.jsonl is not a file; put it there, or set DATA_ROOT"):
        prepare(run)


def rule(facts: str, body: str) -> str:
    return f"---\n{facts}\n---\n\n{body}\n"


NOTICE = "is_license_notice: yes"
RULES = {
    "a_kept_1.RULE": rule(f"license_expression: mit\n{NOTICE}", "Under the {{MIT License}}, as you like it"),
    "b_old_1.RULE": rule(f"license_expression: mit\n{NOTICE}\nis_deprecated: yes", "one two three four"),
    "c_false_1.RULE": rule("is_false_positive: yes", "one two three four"),
    "d_tag_1.RULE": rule("license_expression: mit\nis_license_tag: yes", "one two three four"),
    "e_short_1.RULE": rule(f"license_expression: mit\n{NOTICE}", "{{one}} two"),
    "f_long_1.RULE": rule(f"license_expression: mit\n{NOTICE}", "word " * 10),
    "g_nameless_1.RULE": rule(NOTICE, "one two three four"),
}


def notices(package: str, **settings: Any) -> DataConfig:
    source = SourceConfig(SourceKind.licence_notices, package=package, min_words=3, max_words=9)
    return DataConfig(name="notices", licence="CC-BY-4.0", source=source, **settings)


def test_rules_become_notices_or_counted_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pretend_rules" / "data" / "rules"
    folder.mkdir(parents=True)
    for name, text in RULES.items():
        (folder / name).write_text(text)
    (folder / "h_latin_1.RULE").write_bytes(rule(NOTICE, "caf\xe9 two three").encode("latin-1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    source = open_source(notices("pretend_rules"), PathsConfig(str(tmp_path), str(tmp_path), str(tmp_path)))
    found = list(source.read())
    kept = [item for item in found if isinstance(item, Document)]
    assert [(item.text.strip(), item.target) for item in kept] == [
        ("Under the MIT License, as you like it", "mit")
    ]
    origin = kept[0].origin
    assert RULES["a_kept_1.RULE"][origin.start : origin.end] == "Under the {{MIT License}}, as you like it"
    assert Counter((item.reason, item.lost) for item in found if isinstance(item, Drop)) == {
        ("deprecated rule", False): 1,
        ("false-positive rule", False): 1,
        ("not a licence notice", False): 1,
        ("fewer than 3 words", False): 1,
        ("more than 9 words", False): 1,
        ("no licence expression", True): 1,
        ("not UTF-8", True): 1,
    }


def test_a_missing_package_names_make_setup() -> None:
    with pytest.raises(MachineError, match="no_such_package .*make setup"):
        open_source(notices("no_such_package"), PathsConfig("", "", ""))
