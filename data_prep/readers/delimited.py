"""CSV and TSV: a header, then one record a row, UTF-8."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.readers.lines import lines
from data_prep.readers.record import Record
from finetune.config.data import LimitsConfig
from finetune.errors import DataError


def read_csv(path: Path, limits: LimitsConfig) -> Iterator[Record]:
    """The rows of a file with commas, lazily. Raises DataError with file:line."""
    return _read(path, ",", limits)


def read_tsv(path: Path, limits: LimitsConfig) -> Iterator[Record]:
    """The rows of a file with tabs, lazily. Raises DataError with file:line."""
    return _read(path, "\t", limits)


@dataclass
class _Tape:
    """The lines that the csv module has taken so far: a quoted cell may span several."""

    path: Path
    limits: LimitsConfig
    number: int = 0
    characters: int = 0
    last: str = field(default="", repr=False)

    def __iter__(self) -> Iterator[str]:
        for line in lines(self.path, self.limits.characters):
            self.number += 1
            self.characters += len(line)
            self.last = line
            if "\0" in line:
                raise DataError(
                    f"{self.path}:{self.number}: NUL character; save the file as plain UTF-8 text"
                )
            yield line

    def end(self) -> int:
        """Where the last line ends, without its line break."""
        return self.characters - len(self.last) + len(self.last.rstrip("\r\n"))


def _read(path: Path, delimiter: str, limits: LimitsConfig) -> Iterator[Record]:
    tape = _Tape(path, limits)
    rows = _rows(tape, delimiter, limits)
    header = _header(path, next(rows, None))
    for where, start, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{where}: {len(cells)} cells, but the header has {len(header)}; quote or fill them"
            )
        yield Record(dict(zip(header, cells, strict=True)), where, start, tape.end())


def _rows(tape: _Tape, delimiter: str, limits: LimitsConfig) -> Iterator[tuple[str, int, list[str]]]:
    """Each filled row with its first line and its first character."""
    csv.field_size_limit(limits.characters)  # the module's own limit, 131072, is shorter than a contract
    reader = csv.reader(iter(tape), delimiter=delimiter, strict=True)
    while True:
        where, start = f"{tape.path}:{tape.number + 1}", tape.characters
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where}: {_problem(error, limits)}") from None
        if cells:
            yield where, start, cells


def _problem(error: csv.Error, limits: LimitsConfig) -> str:
    """The csv module's complaint in a user's words."""
    if "field larger" in str(error):
        return f"a cell of more than {limits.characters} characters; is a quote never closed?"
    if "unexpected end" in str(error):
        return 'a quote is opened and never closed; write a quote inside a cell as ""'
    if "new-line" in str(error):
        return "a carriage return ends no line; save the file with \\n or \\r\\n at the end of lines"
    return 'characters after a closing quote; write a quote inside a cell as ""'


def _header(path: Path, first: tuple[str, int, list[str]] | None) -> list[str]:
    if first is None:
        raise DataError(f"{path} holds no row; its first line must name the columns")
    where, _, names = first
    blank = [number for number, name in enumerate(names, 1) if not name.strip()]
    twice = [number for number, name in enumerate(names, 1) if name in names[: number - 1]]
    for numbers, problem in ((blank, "has no name"), (twice, "has the name of an earlier one")):
        if numbers:
            raise DataError(f"{where}: column {numbers[0]} {problem}; name each column once")
    return names
