"""Builders of hostile and malformed files; hostile.py says what reading each must end in."""

import io
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config.data import LimitsConfig

LIMITS = LimitsConfig(file_mib=1, seconds=20, memory_mib=512, pages=50, characters=100_000)
QUERY = "SELECT text, target FROM rows ORDER BY text"
Build = Callable[[Path], Path]
HELD: list[sqlite3.Connection] = []
"""Connections that hold a lock for as long as the tests run."""


@dataclass(frozen=True)
class Case:
    """A file, and what reading its text, its rows or its database must end in."""

    name: str
    build: Build
    kind: str
    """text: a Broken whose reason is `expected`. table, sql: a HallmarkError whose message holds `expected`."""
    expected: str
    limits: LimitsConfig = field(default_factory=lambda: LIMITS)
    url: str = "sqlite:///{path}"
    """kind=sql: the database's URL."""
    query: str = QUERY


def file(name: str, content: bytes | str, folder: Path) -> Path:
    """The path of a new file with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pdf(pages: list[str], count: int | None = None, kids: str = "", trailer: str = "") -> bytes:
    """A PDF with a page for each text; `count`, `kids` and `trailer` may lie."""
    numbers = range(4, 4 + 2 * len(pages), 2)
    tree = kids or " ".join(f"{number} 0 R" for number in numbers)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{tree}]/Count {len(pages) if count is None else count}>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in zip(numbers, pages, strict=True):
        drawing = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else "0 0 10 10 re f"
        resources = "/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R{resources}/Contents {number + 1} 0 R>>".encode())
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(drawing), drawing.encode()))
    return assembled(objects, trailer)


def assembled(objects: list[bytes], trailer: str = "") -> bytes:
    """The objects as a PDF file with its cross-reference table."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    end = f"trailer<</Size {size}/Root 1 0 R{trailer}>>\nstartxref\n{len(out)}\n%%EOF"
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end.encode()


def bomb_pdf(lines: int) -> bytes:
    """A page whose drawing unpacks to a thousand times its size."""
    packer = zlib.compressobj(9)
    packed = packer.compress(b"BT /F1 1 Tf ") + packer.compress(b"(secret) Tj\n" * lines) + packer.flush()
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Resources<</Font<</F1 3 0 R>>>>/Contents 5 0 R>>"
    return assembled(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[4 0 R]/Count 1>>",
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            page,
            b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(packed), packed),
        ]
    )


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="{target}"/>'
    "</Relationships>"
)


def document(body: str, head: str = "") -> str:
    """The main part of a DOCX."""
    return f"<?xml version='1.0'?>{head}<w:document {W}><w:body>{body}</w:body></w:document>"


def paragraph(text: str) -> str:
    """A paragraph of one run."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def docx(main: str | None, target: str = "word/document.xml", **parts: str) -> bytes:
    """A DOCX with this main part; None leaves it out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", RELATIONS.format(target=target))
        for name, content in parts.items():
            archive.writestr(f"word/{name}", content)
        if main is not None:
            archive.writestr(target, main)
    return packed.getvalue()


def lying_docx() -> bytes:
    """A DOCX whose main part says that it unpacks to 40 bytes."""
    whole = bytearray(docx(document(paragraph("secret " * 1000))))
    with zipfile.ZipFile(io.BytesIO(bytes(whole))) as archive:
        size = archive.getinfo("word/document.xml").file_size
    return bytes(whole.replace(size.to_bytes(4, "little"), (40).to_bytes(4, "little")))


def locked_docx() -> bytes:
    """A DOCX whose parts are marked as encrypted."""
    whole = bytearray(docx(document(paragraph("secret"))))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = whole.find(mark)
        while place >= 0:
            whole[place + offset] |= 1
            place = whole.find(mark, place + 1)
    return bytes(whole)


def entity(folder: Path) -> Path:
    """A DOCX that asks its reader to paste another file."""
    target = file("target.txt", "secret", folder)
    head = f'<!DOCTYPE w [<!ENTITY x SYSTEM "file://{target}">]>'
    return file("entity.docx", docx(document(paragraph("secret &x;"), head)), folder)


LAUGHS = (
    "<!DOCTYPE w ["
    + '<!ENTITY a0 "secret">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)


def link(name: str, target: str, folder: Path) -> Path:
    """A symbolic link."""
    file("target.txt", "secret", folder)
    path = folder / name
    path.symlink_to(folder / target)
    return path


def pipe(name: str, folder: Path) -> Path:
    """A named pipe that nobody writes to: opening it would wait for ever."""
    os.mkfifo(folder / name)
    return folder / name


def directory(name: str, folder: Path) -> Path:
    """A folder named like a file."""
    (folder / name).mkdir()
    file("secret.txt", "secret", folder / name)
    return folder / name


def unreadable(name: str, folder: Path) -> Path:
    """A file without any right to read it."""
    path = file(name, "secret", folder)
    path.chmod(0)
    return path


def missing(name: str, folder: Path) -> Path:
    """A path where nothing is."""
    return folder / name


def parquet(
    columns: dict[str, Any], folder: Path, names: list[str] | None = None, cut: int | None = None
) -> Path:
    """A Parquet file of these columns, renamed or cut."""
    import pyarrow as pa
    from pyarrow import parquet as format_

    path = folder / "rows.parquet"
    table = pa.table(columns)
    format_.write_table(table.rename_columns(names) if names else table, path, compression="none")
    return file("rows.parquet", path.read_bytes()[:cut], folder)


def database(rows: list[tuple[Any, ...]], folder: Path) -> Path:
    """An SQLite database with a table `rows` of text and target."""
    path = folder / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (text, target)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", rows)
    connection.close()
    return path


def locked_database(folder: Path) -> Path:
    """A database that another connection is writing to."""
    path = database([("secret", "x")], folder)
    HELD.append(sqlite3.connect(path))
    HELD[-1].execute("BEGIN EXCLUSIVE")
    return path


def undecodable_database(folder: Path) -> Path:
    """A database with a text that is not UTF-8."""
    path = database([], folder)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO rows VALUES (CAST(X'736563726574ff' AS TEXT), 'x')")
    connection.close()
    return path
