"""One file a format: records of tables, texts of files, each with the place it came from."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.readers import delimited, jsonl, parquet
from data_prep.readers.extracted import Broken, Extracted
from data_prep.readers.isolated import texts
from data_prep.readers.record import Record
from finetune.config.data import LimitsConfig
from finetune.errors import DataError

__all__ = ["TABLES", "Broken", "Extracted", "Record", "read_table", "texts"]

TABLES: dict[str, Callable[[Path, LimitsConfig], Iterator[Record]]] = {
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".csv": delimited.read_csv,
    ".tsv": delimited.read_tsv,
    ".parquet": parquet.read,
}


def read_table(path: Path, limits: LimitsConfig) -> Iterator[Record]:
    """The records of a table, lazily, by the file's ending. Raises DataError with file and place."""
    reader = TABLES.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: no table that can be read here; allowed are {', '.join(TABLES)}")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a regular file; give one table")
        if found.st_size == 0:
            raise DataError(f"{path} is empty; put rows into it")
        yield from reader(path, limits)
    except OSError as error:
        raise DataError(f"{path}: not readable: {(error.strerror or 'unknown error').lower()}") from None
