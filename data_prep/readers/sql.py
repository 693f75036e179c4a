"""SQL: the rows of one SELECT, streamed, from any database that SQLAlchemy can open; nothing is written there."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from data_prep.readers.record import Record
from finetune.artifacts.hashing import canonical
from finetune.config.data_checks import QUOTED
from finetune.errors import ConfigError, DataError, HallmarkError, MachineError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult, Engine

BATCH_ROWS = 512
FAILED = "the database cannot be opened or asked; check its URL and the query"
LOCK_WAIT_S = 2
WRITES = re.compile(r"\binto\b|\bdelete\s+from\b|\bupdate\s+[\w.]+\s+set\b|\bfor\s+update\b", re.IGNORECASE)
DRIVERS = {
    "bigquery": "sqlalchemy-bigquery",
    "duckdb": "duckdb-engine",
    "mssql": "pyodbc",
    "mysql": "mysqlclient",
    "oracle": "oracledb",
    "postgresql": "psycopg[binary]",
    "snowflake": "snowflake-sqlalchemy",
}
"""The pip package of each dialect's usual driver."""
PROBLEMS = (
    (r"decode|utf-?8|unicode", "a text of a row is not UTF-8"),
    (r"lock|busy", "the database is locked; close what writes to it"),
    (r"no such (table|column)|does not exist|not found|doesn't exist|unknown column|undefined", "a table or column"
     " of the query is not there; compare the query with the database"),
    (r"syntax|parser error|incomplete input", "the query is not valid SQL for this database"),
    (r"not a database|malformed|corrupt|not a valid duckdb|magic", "the file is damaged or no such database"),
    (r"password|authenti|access denied|login", "the database refused the login"),
    (r"unable to open|permission|cannot open", "the database cannot be opened; see its path and its permissions"),
    (r"connect|timeout|timed out|refused|host", "the database cannot be reached"),
)  # fmt: skip
"""What a driver's message is about. It is never repeated: it may hold the password or a value of a row."""


def records(url: str, query: str, name: str, expected: str | None = None) -> Iterator[Record]:
    """The rows of the query, lazily, named `name:row n` in messages.

    Raises ConfigError for a query that is no single SELECT, DataError where the database cannot answer or, after the
    last row, where the digest of all is not the expected one; MachineError for a missing driver.
    """
    total = sha256()
    for row, values in enumerate(_rows(url, query, name)):
        total.update(_line(values))
        yield Record(values, f"{name}:row {row + 1}", row, row + 1)
    if expected not in (None, total.hexdigest()):
        raise DataError(
            f"{name}: the database changed while it was read, or its ORDER BY leaves some rows in any order; "
            "run again, or order by columns that tell every row apart"
        )


def digest(url: str, query: str, name: str) -> str:
    """sha256 over the rows in their order, names and values: a database's stand-in for a file's hash."""
    total = sha256()
    for values in _rows(url, query, name):
        total.update(_line(values))
    return total.hexdigest()


def _line(values: dict[str, Any]) -> bytes:
    plain = canonical({field: _plain(value) for field, value in values.items()})
    return f"{plain}\n".encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):  # psycopg2's binary values, whose own text is an address
        value = bytes(value)
    return value if isinstance(value, str | int | float | None) else f"{type(value).__name__}:{value!s}"


def _rows(url: str, query: str, name: str) -> Iterator[dict[str, Any]]:
    statement = _one_select(query, name)
    engine = _engine(url, name)
    with _plain_errors(name), _closing(engine.connect()) as connection:
        streaming = connection.execution_options(
            stream_results=True, yield_per=BATCH_ROWS, no_parameters=True
        )
        # the driver's own text: sqlalchemy.text() would take `:word` for a parameter
        found = streaming.exec_driver_sql(statement)
        columns = _columns(found, name)
        for row in found:
            yield dict(zip(columns, row, strict=True))


def _one_select(query: str, name: str) -> str:
    bare = QUOTED.sub(" ", query).strip().removesuffix(";").lstrip("( \n\t")
    if not re.match(r"(select|with)\b", bare, re.IGNORECASE) or ";" in bare or WRITES.search(bare):
        raise ConfigError(f"{name}: the query is no single SELECT or WITH; only reading is allowed")
    return query.strip().removesuffix(";")


def _columns(found: "CursorResult[Any]", name: str) -> list[str]:
    columns = list(found.keys())
    twice = [number for number, column in enumerate(columns, 1) if column in columns[: number - 1]]
    if twice:
        raise DataError(f"{name}: column {twice[0]} of the query has the name of an earlier one; use AS")
    return columns


def _engine(url: str, name: str) -> "Engine":
    """An engine that keeps no connection, read-only where the database is a file. Raises MachineError, ConfigError."""
    try:
        from sqlalchemy import NullPool, create_engine, make_url
        from sqlalchemy.exc import NoSuchModuleError
    except ImportError:
        raise MachineError(
            f"{name}: the Python package sqlalchemy is not installed; run `make setup`"
        ) from None
    try:
        place = make_url(url)
    except Exception:  # noqa: BLE001  (its text repeats the URL)
        raise ConfigError(f"{name}: not an SQLAlchemy URL such as sqlite:////data/cases.db") from None
    dialect = place.get_backend_name()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat parts of the URL
            return create_engine(place, poolclass=NullPool, **_read_only(place, name))
    except (ImportError, NoSuchModuleError) as error:
        package = DRIVERS.get(dialect) if "+" not in place.drivername else getattr(error, "name", None)
        if package is None:
            raise ConfigError(f"{name}: no database that SQLAlchemy knows; allowed are {_known()}") from None
        raise MachineError(f"{name}: its driver is not installed; run `pip install {package}`") from None
    except HallmarkError:
        raise
    except Exception as error:  # noqa: BLE001  (a dialect may raise anything, and its text repeats the URL)
        raise ConfigError(
            f"{name}: its URL holds a part that {dialect} does not take ({type(error).__name__}); correct it"
        ) from None


def _known() -> str:
    return ", ".join(sorted((*DRIVERS, "sqlite")))


def _read_only(place: "URL", name: str) -> dict[str, Any]:
    """What opens a database file without the right to write to it."""
    file, dialect = place.database or ":memory:", place.get_backend_name()
    if dialect not in ("sqlite", "duckdb") or file == ":memory:":
        return {}
    if not Path(file).is_file():
        raise DataError(f"{name}: its database file is not there, or no file")
    if dialect == "duckdb":
        return {"connect_args": {"read_only": True}}

    def connect() -> Any:
        import sqlite3

        # another thread may collect a generator that was left in the middle, and close what it holds
        return sqlite3.connect(
            f"file:{quote(file)}?mode=ro", uri=True, timeout=LOCK_WAIT_S, check_same_thread=False
        )

    return {"creator": connect}


@contextmanager
def _closing(connection: "Connection") -> "Iterator[Connection]":
    """The connection, closed at the end; that it was closed before, by a collector of garbage, harms no reader."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield connection
    finally:
        with suppress(SQLAlchemyError):
            connection.close()


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """A driver's errors, of its own kind or not, as one line that repeats nothing of them."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (HallmarkError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (what a driver does not call its own error is not wrapped)
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        told = str(cause).lower()
        problem = next((words for pattern, words in PROBLEMS if re.search(pattern, told)), None)
        raise DataError(f"{name}: {problem or f'{FAILED} ({type(cause).__name__})'}") from None
