"""Prepared rows read back, checked against the row contract."""

import json
from pathlib import Path
from typing import Any

from finetune.chat import check_row
from finetune.errors import DataError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of train|val|test.jsonl. Raises DataError with file and line."""
    rows = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: not JSON ({type(error).__name__}, {len(line)} characters)"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: {type(row).__name__} instead of an object")
            check_row(row, f"{path}:{number}")
            rows.append(row)
    return rows
