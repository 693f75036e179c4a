"""The process that reads hostile files: requests come in, answers go out, one JSON object a line.

Started by isolated.py as `python -m data_prep.readers.worker LIMITS PARENT`. JSON and not pickle: what a taken-over
process answers must not run in its parent.
"""

import ctypes
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.readers.extracted import UnreadableError
from finetune.config.data import LimitsConfig

TEXT_READERS = {
    ".txt": ("text", "charset_normalizer"),
    ".md": ("text", "charset_normalizer"),
    ".html": ("html", "selectolax.lexbor"),
    ".htm": ("html", "selectolax.lexbor"),
    ".docx": ("docx", "lxml.etree"),
    ".pdf": ("pdf", "pypdfium2"),
}
"""Module beside this one, and the library that it imports."""
FOREIGN = {b"%PDF-": "PDF", b"PK\x03\x04": "ZIP", b"\xd0\xcf\x11\xe0": "old Office file"}
"""First bytes of formats that are no plain text."""
LINUX_PARENT_DEATH_SIGNAL = 1


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    limits = LimitsConfig(**json.loads(sys.argv[1]))
    _die_with(int(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    _limit_resources(limits)
    _send(answers, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        for answer in _answers(request["task"], Path(request["path"]), limits):
            _send(answers, answer)


def _send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    answers.flush()


def _die_with(parent: int) -> None:
    """Be killed when the parent is, even inside a library's loop. Where the system has no such signal, end of file."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(LINUX_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            sys.exit(1)


def _limit_resources(limits: LimitsConfig) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a private text
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + (limits.memory_mib << 20), hard))


@cache
def _load(library: str) -> None:
    """Import a library outside the memory limit, which is there for files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    before = _mapped_bytes()
    import_module(library)
    resource.setrlimit(resource.RLIMIT_AS, (soft + _mapped_bytes() - before, hard))


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _answers(task: str, path: Path, limits: LimitsConfig) -> Iterator[dict[str, Any]]:
    """The values that a task makes of a file, then `done`; or why it could not, and whether a retry may help."""
    try:
        for value in TASKS[task](path, limits):
            yield {"value": value}
        yield {"done": True}
    except UnreadableError as error:
        yield {"broken": error.reason}
    except ImportError as error:
        yield {"missing": error.name or "a library"}
    except MemoryError:
        yield {"exhausted": True}
    except Exception as error:  # noqa: BLE001  (a library may raise anything on a hostile file; its message may quote it)
        yield {"failed": type(error).__name__}


def _text(path: Path, limits: LimitsConfig) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in TEXT_READERS:
        is_plain = suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 8
        raise UnreadableError(f"unknown format {suffix}" if is_plain else "unknown format")
    content = _content(path, limits)
    module, library = TEXT_READERS[suffix]
    foreign = next((name for mark, name in FOREIGN.items() if content.startswith(mark)), None)
    if foreign and module in ("text", "html"):
        raise UnreadableError(f"a {foreign}, not text (wrong extension?)")
    _load(library)
    found = import_module(f"data_prep.readers.{module}").extract(content, limits)
    yield {"text": found.text, "pages": found.pages, "extractor": found.extractor}


def _content(path: Path, limits: LimitsConfig) -> bytes:
    """The bytes of a regular file. Opened first and looked at then, without waiting: a pipe would wait for ever."""
    if path.is_symlink():
        raise UnreadableError("a link, not a file")
    try:
        with open(path, "rb", opener=_open_now) as stream:  # noqa: PTH123  (Path.open takes no opener)
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableError("not a regular file")
            if found.st_size > limits.file_mib << 20:
                raise UnreadableError(f"larger than {limits.file_mib} MiB")
            content = stream.read()
    except IsADirectoryError:
        raise UnreadableError("a folder, not a file") from None
    except OSError as error:
        raise UnreadableError(f"not readable: {(error.strerror or 'unknown error').lower()}") from None
    if not content:
        raise UnreadableError("empty file")
    return content


def _open_now(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _table(path: Path, limits: LimitsConfig) -> Iterator[dict[str, Any]]:
    _load("pyarrow.parquet")
    batches: Iterator[dict[str, Any]] = import_module("data_prep.readers.parquet").batches(path, limits)
    return batches


TASKS = {"text": _text, "table": _table}

if __name__ == "__main__":
    main()
