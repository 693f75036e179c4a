"""DOCX: paragraphs, tables and notes in reading order, as the document reads with its changes accepted.

Straight from the XML and not through python-docx, which leaves out tables' places, insertions and notes.
"""

import io
import lzma
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from data_prep.readers.extracted import Extracted, UnreadableError, require_short, require_text
from finetune.config.data import LimitsConfig

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

OLE = b"\xd0\xcf\x11\xe0"
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
"""Name of the stream in which Office keeps a document with a password."""
MAIN = "/officeDocument"
NOTES = ("/footnotes", "/endnotes")
UNSEEN = frozenset("del moveFrom delText instrText Fallback rPr pPr tblPr tcPr trPr sectPr comment".split())
"""Removed by a tracked change, a field's formula, a second rendering of the same shape, or settings."""
MARKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, ValueError)
"""What zipfile and its codecs raise on damaged bytes; NotImplementedError: a compression they do not know."""
SEPARATORS = frozenset(("separator", "continuationSeparator", "continuationNotice"))


def extract(content: bytes, limits: LimitsConfig) -> Extracted:
    """The text of a document. Raises UnreadableError with the reason."""
    if content.startswith(OLE):
        raise UnreadableError("encrypted" if ENCRYPTED in content else "an old .doc inside; save it as .docx")
    if not content.startswith(b"PK"):
        raise UnreadableError("not a DOCX (wrong extension?)")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pieces = list(_pieces(archive, limits))
    except DAMAGE:
        raise UnreadableError("broken DOCX") from None
    return Extracted(require_text("".join(pieces)), (), f"lxml@{version('lxml')}")


def _pieces(archive: zipfile.ZipFile, limits: LimitsConfig) -> Iterator[str]:
    characters = 0
    main = next(_related(archive, "", (MAIN,), limits), "")
    document = _parsed(archive, main, limits) if main else None
    if document is None or _name(document) != "document":
        raise UnreadableError("not a DOCX (wrong extension?)")
    for root in (
        document,
        *(_parsed(archive, note, limits) for note in _related(archive, main, NOTES, limits)),
    ):
        for piece in _text(root):
            characters += len(piece)
            require_short(characters, limits.characters)
            yield piece


def _related(
    archive: zipfile.ZipFile, part: str, kinds: tuple[str, ...], limits: LimitsConfig
) -> Iterator[str]:
    """The parts of these kinds that a part refers to; the archive's own part is ``."""
    folder, name = posixpath.split(part)
    relations = posixpath.join(folder, "_rels", f"{name}.rels")
    if relations not in archive.namelist():
        return
    for relation in _parsed(archive, relations, limits):
        if str(relation.get("Type", "")).endswith(kinds) and relation.get("TargetMode") != "External":
            yield posixpath.normpath(posixpath.join("/", folder, str(relation.get("Target", ""))))[1:]


def _parsed(archive: zipfile.ZipFile, part: str, limits: LimitsConfig) -> "Element":
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(_unpacked(archive, part, limits), parser)
    except etree.XMLSyntaxError:
        raise UnreadableError("broken DOCX") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise UnreadableError("a document type declaration, which no DOCX has")
    return root


def _unpacked(archive: zipfile.ZipFile, part: str, limits: LimitsConfig) -> bytes:
    """The part's bytes: its declared size may lie, so what unpacks is counted too."""
    most = limits.file_mib << 20
    try:
        entry = archive.getinfo(part)
    except KeyError:
        raise UnreadableError("broken DOCX") from None
    if entry.flag_bits & 1:
        raise UnreadableError("encrypted")
    if entry.file_size <= most:
        with archive.open(entry) as stream:
            content = stream.read(most + 1)
        if len(content) <= most:
            return content
    raise UnreadableError(f"zip bomb: unpacks to more than {limits.file_mib} MiB")


def _text(node: "Element") -> Iterator[str]:
    """Text in reading order: a line a paragraph, a line a row, cells apart by tabs. The parser bounds the depth."""
    name = _name(node)
    if name in UNSEEN or _is_hidden(node, name):
        return
    if name == "t":
        yield node.text or ""
    yield MARKS.get(name, "")
    if name == "tr" and not _is_deleted(node):
        yield (
            "\t".join("".join(_text(cell)).strip("\n") for cell in node if _name(cell) in ("tc", "sdt"))
            + "\n"
        )
    elif name != "tr":
        for child in node:
            yield from _text(child)
    if name == "p":
        yield "\n"


def _is_deleted(row: "Element") -> bool:
    return any(_name(mark) == "del" for settings in row if _name(settings) == "trPr" for mark in settings)


def _is_hidden(node: "Element", name: str) -> bool:
    """A run set as hidden text, or a rule that only separates notes."""
    if name in ("footnote", "endnote"):
        return any(value in SEPARATORS for value in node.attrib.values())
    settings = [child for child in node if _name(child) == "rPr"] if name == "r" else []
    marks = [mark for setting in settings for mark in setting if _name(mark) == "vanish"]
    return any(not set(mark.attrib.values()) & {"0", "false", "off"} for mark in marks)


def _name(node: "Element") -> str:
    """The tag without its namespace, which differs between the two forms of the standard; empty for a comment."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""
