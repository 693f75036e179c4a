"""Rows of databases: streamed, read-only, and hashed over their content."""

import sqlite3
from itertools import islice
from pathlib import Path

import duckdb
import hostile_files
import pytest

from data_prep.readers import sql
from data_prep.sources.table import open_table
from finetune.config.data import DataConfig, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig
from finetune.errors import DataError

ROWS = [("b :word 100%", 2), ("a", 1)]
QUERY = "SELECT text, target, ':word ;' AS kind FROM rows ORDER BY target; "


def test_sqlite_rows_come_in_the_querys_order_with_their_place(tmp_path: Path) -> None:
    path = hostile_files.database(ROWS, tmp_path).rename(tmp_path / "odd ?#% name.db")
    url = f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F').replace('#', '%23')}"
    found = list(sql.records(url, QUERY, "cases"))
    assert [row.fields for row in found] == [
        {"text": "a", "target": 1, "kind": ":word ;"},
        {"text": "b :word 100%", "target": 2, "kind": ":word ;"},
    ]
    assert [(row.where, row.start, row.end) for row in found] == [
        ("cases:row 1", 0, 1),
        ("cases:row 2", 1, 2),
    ]


def test_duckdb_rows_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "rows.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE rows AS SELECT range AS id, 'text ' || range AS text FROM range(100000)"
        )
    found = sql.records(f"duckdb:///{path}", "SELECT text, id FROM rows ORDER BY id", "cases")
    assert [row.text("text") for row in islice(found, 2)] == ["text 0", "text 1"]
    assert sum(1 for _ in found) == 99_998


def test_a_digest_follows_every_value_name_and_place(tmp_path: Path) -> None:
    path = hostile_files.database(ROWS, tmp_path)
    url = f"sqlite:///{path}"
    first = sql.digest(url, QUERY, "cases")
    assert (
        first
        == sql.digest(url, QUERY, "other name")
        != sql.digest(url, QUERY.replace("kind", "sort"), "cases")
    )
    assert first != sql.digest(url, QUERY.replace("target;", "target DESC;"), "cases")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET text = 'c' WHERE target = 1")
    connection.close()
    assert first != sql.digest(url, QUERY, "cases")


def test_rows_that_changed_since_the_digest_are_refused_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hostile_files.database([("b", "y"), ("a", "x")], tmp_path)
    monkeypatch.setenv("CASES", f"sqlite:///{path}")
    query = "SELECT text, target FROM rows ORDER BY target"
    source = SourceConfig(
        SourceKind.table, url_from_env="CASES", query=query, text_field="text", target_field="target"
    )
    opened = open_table(DataConfig("cases", "CC0-1.0", source=source), PathsConfig(str(tmp_path)), 1)
    assert len(list(opened.read())) == 2
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET text = 'secret' WHERE target = 'y'")
    connection.close()
    found = opened.read()
    assert [document.text for document in islice(found, 2)] == ["a", "secret"]
    with pytest.raises(DataError, match="CASES: the database changed while it was read") as refused:
        next(found)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        "WITH x AS (SELECT text FROM rows) SELECT text FROM x",
        "-- which rows; all\nSELECT text FROM rows",
        "select text from rows where text <> 'DELETE FROM rows; drop' and \"text\" <> ';'",
    ],
)
def test_a_query_that_reads_may_speak_of_writing(tmp_path: Path, query: str) -> None:
    path = hostile_files.database(ROWS, tmp_path)
    assert sum(1 for _ in sql.records(f"sqlite:///{path}", query, "cases")) == 2


@pytest.mark.filterwarnings("error")
def test_no_warning_repeats_a_part_of_the_url(tmp_path: Path) -> None:
    path = hostile_files.database(ROWS, tmp_path)
    assert sum(1 for _ in sql.records(f"sqlite:///{path}?secret=1", QUERY, "cases")) == 2


def test_reading_leaves_a_database_and_its_folder_as_they_were(tmp_path: Path) -> None:
    path = hostile_files.database(ROWS, tmp_path)
    before = path.read_bytes()
    list(sql.records(f"sqlite:///{path}", "SELECT text FROM rows", "cases"))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["rows.db"]
