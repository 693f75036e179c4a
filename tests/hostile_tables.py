"""Malformed tables and databases, and the line that reading each must end in."""

import json
from functools import partial

from hostile_files import (
    Case,
    database,
    directory,
    file,
    link,
    locked_database,
    missing,
    parquet,
    pipe,
    undecodable_database,
    unreadable,
)

ROW = json.dumps({"text": "secret words", "target": "x"}) + "\n"
SURROGATE = '{"text": "secret\\ud800", "target": "x"}'
LINES: list[tuple[str, str, str]] = [
    ("broken JSON", '{"text": "secret', "x.jsonl:3: broken JSON at column 10 of 16 characters"),
    ("a list for an object", '["secret"]', "x.jsonl:3: list of length 1 instead of an object"),
    (
        "half a surrogate pair",
        SURROGATE,
        "x.jsonl:3: field 'text', string of length 7, holds half a surrogate pair",
    ),
    ("a field twice", '{"text": "secret", "text": "y", "target": "x"}', "x.jsonl:3: a field stands twice"),
    ("JSON nested too deep", "[" * 90_000, "x.jsonl:3: unreadable JSON (RecursionError, 90000 characters)"),
    (
        "a number too long",
        '{"secret": ' + "9" * 5000 + "}",
        "x.jsonl:3: unreadable JSON (ValueError, 5012 characters)",
    ),
    (
        "a line too long",
        '{"text": "' + "secret" * 20_000 + '"}',
        "x.jsonl:3: a line of more than 100000 characters",
    ),
    ("a raw control character", '{"text": "secret\0"}', "x.jsonl:3: broken JSON at column 17"),
    ("no text", '{"target": "secret"}', "x.jsonl:3: field 'text' is missing; add it"),
    ("no target", '{"text": "secret"}', "x.jsonl:3: field 'target' is missing; add it"),
    (
        "null text",
        '{"text": null, "target": "secret"}',
        "x.jsonl:3: field 'text' is null; it must be a string",
    ),
    (
        "a number as text",
        '{"text": 5, "target": "secret"}',
        "x.jsonl:3: field 'text' is number; it must be a str",
    ),
    (
        "an object as text",
        '{"text": {"secret": 1}, "target": "x"}',
        "field 'text' is object of length 1; it must",
    ),
    (
        "blank text",
        '{"text": " ", "target": "secret"}',
        "x.jsonl:3: field 'text' is an empty string of length 1",
    ),
    (
        "blank target",
        '{"text": "secret", "target": ""}',
        "x.jsonl:3: field 'target' is an empty string of length 0",
    ),
    (
        "a number as label",
        '{"text": "secret", "target": ["secret", 5]}',
        "'target' has number as label 2; each",
    ),
    ("no label", '{"text": "secret", "target": []}', "x.jsonl:3: field 'target' holds no label"),
]
TABLES: list[tuple[str, str, bytes | str, str]] = [
    ("jsonl cut in a row", "x.jsonl", (ROW + ROW)[:-9], "x.jsonl:2: broken JSON"),
    (
        "jsonl in Latin-1",
        "x.jsonl",
        ROW.encode() + b'{"text": "secret caf\xe9"}',
        "x.jsonl:2: not UTF-8 at byte 21",
    ),
    ("jsonl in UTF-16", "x.jsonl", ROW.encode("utf-16"), "x.jsonl:1: not UTF-8 at byte 1"),
    ("empty jsonl", "x.jsonl", b"", "x.jsonl is empty"),
    (
        "csv with too few cells",
        "x.csv",
        "text,target\nsecret,x\nsecret\n",
        "x.csv:3: 1 cells, but the header has 2",
    ),
    (
        "csv with too many cells",
        "x.csv",
        'text,target\n"a\nb",x\nsecret,x,y\n',
        "x.csv:4: 3 cells, but the header",
    ),
    (
        "csv with a column twice",
        "x.csv",
        "text,secret,secret\n",
        "x.csv:1: column 3 has the name of an earlier one",
    ),
    ("csv with a nameless column", "x.csv", "text,,secret\n", "x.csv:1: column 2 has no name"),
    ("csv without a column", "x.csv", "text,secret\nsecret,x\n", "x.csv:2: field 'target' is missing"),
    (
        "csv with an open quote",
        "x.csv",
        'text,target\n"secret,x\na,b\n',
        "x.csv:2: a quote is opened and never",
    ),
    (
        "csv with a loose quote",
        "x.csv",
        'text,target\n"secret" s,x\n',
        "x.csv:2: characters after a closing quote",
    ),
    (
        "csv with a huge cell",
        "x.csv",
        'text,target\n"' + "secret\n" * 20_000,
        "x.csv:2: a cell of more than 100000 char",
    ),
    ("csv with NUL", "x.csv", "text,target\nsecret\0,x\n", "x.csv:2: NUL character"),
    (
        "csv in Latin-1",
        "x.csv",
        b"text,target\nsecret caf\xe9,x\n",
        "x.csv:2: not UTF-8 at byte 11 of the line",
    ),
    (
        "csv with bare carriage returns",
        "x.csv",
        "text,target\rsecret,x\r",
        "x.csv:1: a carriage return ends no line",
    ),
    ("csv of blank lines", "x.csv", "\n\n", "x.csv holds no row; its first line must name the columns"),
    ("empty csv", "x.csv", b"", "x.csv is empty"),
    ("tsv with too few cells", "x.tsv", "text\ttarget\nsecret\n", "x.tsv:2: 1 cells, but the header has 2"),
    ("text named parquet", "x.parquet", "secret" * 9, "x.parquet: broken Parquet, or not Parquet"),
    ("empty parquet", "x.parquet", b"", "x.parquet is empty"),
    (
        "unknown table",
        "x.xls",
        "secret",
        "x.xls: no table that can be read here; allowed are .jsonl, .ndjson, .csv",
    ),
]
GOOD_COLUMNS = {"text": ["secret"], "target": ["x"]}
TABLE_CASES = [
    *(Case(name, partial(file, "x.jsonl", ROW + "\n" + line), "table", why) for name, line, why in LINES),
    *(Case(name, partial(file, path, content), "table", why) for name, path, content, why in TABLES),
    Case(
        "parquet cut in half",
        partial(parquet, GOOD_COLUMNS, cut=300),
        "table",
        "rows.parquet: broken Parquet",
    ),
    Case(
        "parquet with a nested text",
        partial(parquet, {"text": [{"secret": 1}], "target": ["x"]}),
        "table",
        "rows.parquet:row 1: field 'text' is a nested column; it must be a string",
    ),
    Case(
        "parquet with a binary text",
        partial(parquet, {"text": [b"secret"], "target": ["x"]}),
        "table",
        "rows.parquet:row 1: field 'text' is a binary column; it must be a string",
    ),
    Case(
        "parquet with a column twice",
        partial(parquet, GOOD_COLUMNS, names=["text", "text"]),
        "table",
        "rows.parquet: two columns have the same name",
    ),
    Case("folder named csv", partial(directory, "x.csv"), "table", "x.csv is not a regular file"),
    Case("pipe named jsonl", partial(pipe, "x.jsonl"), "table", "x.jsonl is not a regular file"),
    Case(
        "dangling link to a table",
        partial(link, "x.jsonl", "nowhere"),
        "table",
        "not readable: no such file or dir",
    ),
    Case(
        "missing table", partial(missing, "x.csv"), "table", "x.csv: not readable: no such file or directory"
    ),
    Case(
        "table without rights",
        partial(unreadable, "x.csv"),
        "table",
        "x.csv: not readable: permission denied",
    ),
]

ROWS = [("secret", "x")]
URL = "postgresql+psycopg2://user:secret@127.0.0.1/secret"
READ_ONLY = "cases: the query is no single SELECT or WITH; only reading is allowed"
NOT_THERE = "cases: a table or column of the query is not there"
DAMAGED = "cases: the file is damaged or no such database"


def sql(name: str, expected: str, **how: str) -> Case:
    """A good database asked in a bad way."""
    return Case(name, partial(database, ROWS), "sql", expected, **how)  # type: ignore[arg-type]


SQL_CASES = [
    Case("locked database", locked_database, "sql", "cases: the database is locked; close what writes to it"),
    Case(
        "database with a text that is not UTF-8",
        undecodable_database,
        "sql",
        "cases: a text of a row is not UTF-8",
    ),
    Case(
        "null in a database",
        partial(database, [(None, "secret")]),
        "sql",
        "cases:row 1: field 'text' is null",
    ),
    Case(
        "binary in a database",
        partial(database, [(b"secret", "x")]),
        "sql",
        "'text' is binary value of length 6",
    ),
    Case("text named db", partial(file, "x.db", "secret" * 99), "sql", DAMAGED),
    Case("text named duckdb", partial(file, "x.db", "secret" * 99), "sql", DAMAGED, url="duckdb:///{path}"),
    Case(
        "missing database",
        partial(missing, "x.db"),
        "sql",
        "cases: its database file is not there, or no file",
    ),
    sql("missing SQL table", NOT_THERE, query="SELECT * FROM secret"),
    sql("missing SQL column", NOT_THERE, query="SELECT secret FROM rows"),
    sql("query that is no SQL", "cases: the query is not valid SQL", query="SELECT FROM WHERE secret"),
    sql("query that deletes", READ_ONLY, query="DELETE FROM rows -- secret"),
    sql("query that hides a deletion", READ_ONLY, query="WITH secret AS (SELECT 1) DELETE FROM rows"),
    sql("two statements", READ_ONLY, query="SELECT * FROM rows; DROP TABLE rows -- secret"),
    sql(
        "a column twice in a query",
        "cases: column 2 of the query has the name",
        query="SELECT text, text FROM rows",
    ),
    sql("no URL", "cases: not an SQLAlchemy URL such as", url="secret"),
    sql(
        "unknown database",
        "cases: no database that SQLAlchemy knows; allowed are",
        url="odd://user:secret@host/x",
    ),
    sql(
        "a parameter of the wrong type",
        "cases: its URL holds a part that sqlite does not take (ValueError); correct it",
        url="sqlite:///{path}?timeout=secret",
    ),
    sql(
        "a parameter that fails when connecting",
        "cases: the database cannot be opened or asked; check its URL and the query (OverflowError)",
        url="sqlite:///:memory:?cached_statements=99999999999",
    ),
    sql("missing driver", "cases: its driver is not installed; run `pip install psycopg2`", url=URL),
]
