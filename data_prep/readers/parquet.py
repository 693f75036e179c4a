"""Parquet: rows in batches, read in a process of their own, since the format's library is C++ on foreign bytes."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.readers.extracted import UnreadableError
from data_prep.readers.isolated import Worker
from data_prep.readers.record import Record, Unusable
from finetune.config.data import LimitsConfig
from finetune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 512


def read(path: Path, limits: LimitsConfig) -> Iterator[Record]:
    """The rows of a file, lazily. Raises DataError with the file, or its row, where it cannot be read on."""
    worker, row = Worker(limits), 0
    try:
        for batch in worker.ask("table", path):
            unusable = {name: Unusable(kind) for name, kind in batch["unusable"].items()}
            for values in zip(*batch["columns"], strict=True):
                fields = dict(zip(batch["names"], values, strict=True)) | unusable
                yield Record(fields, f"{path}:row {row + 1}", row, row + 1)
                row += 1
    except UnreadableError as error:
        place = f"{path}:row {row + 1} and on" if row else str(path)
        raise DataError(f"{place}: {error.reason}") from None
    finally:
        worker.close()


def batches(path: Path, limits: LimitsConfig) -> Iterator[dict[str, Any]]:
    """Columns of values that JSON can carry; columns that no field can use by name alone. Run by the worker."""
    import pyarrow as pa
    from pyarrow import parquet

    pa.set_cpu_count(1)
    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise UnreadableError("two columns have the same name; rename one")
            unusable = {field.name: kind for field in file.schema_arrow if (kind := _unusable(field.type))}
            usable = [name for name in names if name not in unusable]
            for batch in file.iter_batches(BATCH_ROWS, columns=usable, use_threads=False):
                columns = [[_plain(value) for value in column.to_pylist()] for column in batch.columns]
                yield {"names": batch.schema.names, "columns": columns, "unusable": unusable}
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if "bad_alloc" in str(error):  # C++ code that did not expect it
            raise MemoryError from None
        raise UnreadableError("broken Parquet, or not Parquet (wrong extension?)") from None


def _unusable(kind: "pa.DataType") -> str:
    """What a column is that no field can use; empty where one can."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _unusable(kind.value_type) if not pa.types.is_nested(kind.value_type) else "a nested column"
    if pa.types.is_nested(kind):
        return "a nested column"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "a binary column"
    return ""


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, date) else str(value)
