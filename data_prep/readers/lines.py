"""The lines of a UTF-8 file, decoded one by one, none longer than a limit."""

from collections.abc import Iterator
from pathlib import Path

from finetune.errors import DataError


def lines(path: Path, max_characters: int) -> Iterator[str]:
    """Each line with its end, without a byte order mark. Raises DataError with file:line: not UTF-8, too long."""
    most_bytes = 4 * max_characters + 2  # UTF-8 takes up to four a character; two for the line's end
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(most_bytes):
            number += 1
            line = _decoded(raw, f"{path}:{number}", "utf-8-sig" if number == 1 else "utf-8")
            if len(line) > max_characters:
                raise DataError(f"{path}:{number}: a line of more than {max_characters} characters; split it")
            yield line


def _decoded(raw: bytes, where: str, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        ) from None
