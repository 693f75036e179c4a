"""Sources: what tables, databases and ScanCode's rules become, and what they say when broken."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.rows import Ask, Document, Drop
from data_prep.sources import Source, open_source
from finetune.config.data import DataConfig, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import ConfigError, DataError, MachineError

MakeRun = Callable[..., RunConfig]
GOOD = '{"text": "secret words", "target": "rent"}\n'


def opened(run: RunConfig) -> Source:
    return open_source(run.data, run.paths, 1)


def place(root: Path) -> PathsConfig:
    (root / "artifacts").mkdir(exist_ok=True)
    return PathsConfig(str(root), str(root), str(root / "artifacts"))


def source_of(root: Path, kind: SourceKind, labels: list[str] | None = None, **fields: Any) -> Source:
    data = DataConfig(name="d", licence="CC0-1.0", source=SourceConfig(kind, **fields), labels=labels)
    return open_source(data, place(root), 1)


def documents(source: Source) -> list[Document]:
    return [found for found in source.read() if isinstance(found, Document)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"target": "secret"}', "t.jsonl:2: field 'text' is missing"),
        ('{"text": "secret"}', "t.jsonl:2: field 'target' is missing"),
        (
            '{"text": ["secret"], "target": "x"}',
            "t.jsonl:2: field 'text' is list of length 1; it must be a string",
        ),
        ('{"text": "secret", "target": 7}', "t.jsonl:2: field 'target' is number; it must be a string"),
        ('{"text": " \\n", "target": "secret"}', "t.jsonl:2: field 'text' is an empty string of length 2"),
        (
            '{"text": "secret", "target": "secret"}',
            "t.jsonl:2: field 'target', string of length 6, is not one of",
        ),
        (
            '{"text": "secret", "target": ["rent", "secret"]}',
            "t.jsonl:2: field 'target', string of length 6, is not",
        ),
    ],
)
def test_a_broken_row_names_file_line_and_field_but_not_its_content(
    make_run: MakeRun, line: str, message: str
) -> None:
    with pytest.raises(DataError) as refused:
        list(opened(make_run(GOOD + line + "\n", labels=["rent", "price"])).read())
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_group_key_is_needed_where_one_is_configured_and_may_be_a_number(make_run: MakeRun) -> None:
    run = make_run('{"text": "a b", "target": "x", "contract": 12}\n' + GOOD, group_field="contract")
    found = opened(run).read()
    first = next(found)
    assert isinstance(first, Document)
    assert first.groups == ("12",)
    with pytest.raises(DataError, match=r"t\.jsonl:2: field 'contract' is missing"):
        next(found)


def test_positions_count_characters_and_a_byte_order_mark_is_no_text(make_run: MakeRun) -> None:
    run = make_run('\ufeff{"text": "§ 1", "target": "x"}\n\n{"text": "b", "target": "y"}\n')
    found = [item.origin for item in opened(run).read()]
    assert [(origin.start, origin.end) for origin in found] == [(0, 30), (32, 60)]


def test_a_missing_and_an_empty_table_say_so(make_run: MakeRun) -> None:
    run = make_run("")
    with pytest.raises(DataError, match=r"t\.jsonl is empty"):
        opened(run)
    (Path(run.paths.data_root) / "t.jsonl").unlink()
    with pytest.raises(DataError, match=r"t\.jsonl is not a file; put it there, or set DATA_ROOT"):
        opened(run)


TICKET = {
    "text_field": "body",
    "question_field": "asked",
    "target_field": "topics",
    "target_separator": ";",
    "group_field": "customer",
    "time_field": "opened",
    "language_field": "lang",
}
HEADER = "body,asked,topics,customer,opened,lang\n"
TICKETS = (
    HEADER
    + "The bill is wrong,Topics?,bill; price,7,2024-05-01,en\nNo line,Topics?,net,8,2024-05-02T10:00:00Z,\n"
)


def test_the_columns_of_a_table_become_question_answers_group_time_and_language(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text(TICKETS)
    source = source_of(tmp_path, SourceKind.table, path="tickets.csv", **TICKET)
    one, two = documents(source)
    assert one.asks == (Ask("Topics?", ["bill", "price"]),)
    assert (one.text, one.groups, one.time, one.language) == ("The bill is wrong", ("7",), "2024-05-01", "en")
    assert (two.asks, two.time, two.language) == (
        (Ask("Topics?", ["net"]),),
        "2024-05-02T10:00:00+00:00",
        None,
    )
    assert list(source.files) == ["tickets.csv"]


def test_a_remote_table_is_read_as_a_local_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "tickets.csv").write_text(TICKETS)
    url = (tmp_path / "far" / "tickets.csv").as_uri()
    source = source_of(tmp_path, SourceKind.table, path=url, **TICKET)
    assert [document.groups for document in documents(source)] == [("7",), ("8",)]
    assert list(source.files) == [url]


def test_a_query_is_a_source_whose_rows_are_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = sqlite3.connect(tmp_path / "t.db")
    base.execute("create table t (n integer, body text, topic text)")
    base.executemany("insert into t values (?, ?, ?)", [(1, "a b", "x"), (2, "c d", "y")])
    base.commit()
    fields = {
        "url_from_env": "TICKETS_URL",
        "query": "select body, topic from t order by n",
        "text_field": "body",
        "target_field": "topic",
    }
    with pytest.raises(ConfigError, match="variable TICKETS_URL is not set"):
        source_of(tmp_path, SourceKind.table, **fields)
    monkeypatch.setenv("TICKETS_URL", f"sqlite:///{tmp_path}/t.db")
    source = source_of(tmp_path, SourceKind.table, **fields)
    assert [(found.text, found.asks[0].target) for found in documents(source)] == [("a b", "x"), ("c d", "y")]
    assert str(tmp_path) not in str(source.record())
    base.execute("update t set topic = 'z' where n = 2")
    base.commit()
    assert source_of(tmp_path, SourceKind.table, **fields).record() != source.record()


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
    source = open_source(notices("pretend_rules"), place(tmp_path), 1)
    found = list(source.read())
    kept = [item for item in found if isinstance(item, Document)]
    assert [(item.text.strip(), item.asks) for item in kept] == [
        ("Under the MIT License, as you like it", (Ask("", "mit"),))
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
        open_source(notices("no_such_package"), PathsConfig("", "", ""), 1)
