"""Hostile files whose text is asked for, and the reason that each must be dropped for."""

from dataclasses import replace
from functools import partial

from hostile_files import (
    LAUGHS,
    LIMITS,
    Case,
    bomb_pdf,
    directory,
    document,
    docx,
    entity,
    file,
    link,
    locked_docx,
    lying_docx,
    missing,
    paragraph,
    pdf,
    pipe,
    unreadable,
)

from finetune.config.data import LimitsConfig


def small(**settings: int) -> LimitsConfig:
    """The limits of these tests, some of them smaller."""
    return replace(LIMITS, **settings)


GOOD_PDF = pdf(["secret one", "secret two"])
GOOD_DOCX = docx(document(paragraph("secret")))
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED = f"/Encrypt<</Filter/Standard/V 1/R 2/O<{'41' * 32}>/U<{'42' * 32}>/P -4>>/ID[<00><00>]"
NO_PDF, NO_DOCX = "not a PDF (wrong extension?)", "not a DOCX (wrong extension?)"
NO_TEXT, DTD = "no text in it", "a document type declaration, which no DOCX has"
WRONG_MARK = "not the encoding that its first bytes announce"

CONTENTS: list[tuple[str, str, bytes | str, str]] = [
    *((f"empty {suffix}", f"x.{suffix}", b"", "empty file") for suffix in "txt md html docx pdf".split()),
    ("encrypted pdf", "x.pdf", pdf(["secret"], trailer=ENCRYPTED), "encrypted"),
    ("zip named pdf", "x.pdf", GOOD_DOCX, NO_PDF),
    ("text named pdf", "x.pdf", "secret", NO_PDF),
    ("pdf cut in half", "x.pdf", GOOD_PDF[: len(GOOD_PDF) // 2], "broken PDF"),
    ("pdf of a header", "x.pdf", "%PDF-1.4\nsecret", "broken PDF"),
    ("pdf whose page tree holds itself", "x.pdf", pdf(["secret"], 10, "2 0 R 4 0 R"), "broken PDF"),
    ("pdf with fewer pages than it says", "x.pdf", pdf(["secret"], 40), "broken PDF"),
    ("pdf that says 100,000 pages", "x.pdf", pdf(["secret"], 100_000), "more than 50 pages"),
    ("pdf of 60 pages", "x.pdf", pdf(["secret"] * 60), "more than 50 pages"),
    ("pdf without text", "x.pdf", pdf(["", ""]) + b"% secret", "no text layer (scanned?)"),
    ("pdf with too much text", "x.pdf", bomb_pdf(100_000), "more than 100000 characters"),
    ("docx with a password", "x.docx", OLE + "EncryptedPackage secret".encode("utf-16-le"), "encrypted"),
    ("docx with encrypted parts", "x.docx", locked_docx(), "encrypted"),
    ("doc named docx", "x.docx", OLE + b"secret", "an old .doc inside; save it as .docx"),
    ("pdf named docx", "x.docx", GOOD_PDF, NO_DOCX),
    ("text named docx", "x.docx", "secret", NO_DOCX),
    ("workbook named docx", "x.docx", docx("<workbook>secret</workbook>", "xl/workbook.xml"), NO_DOCX),
    ("docx cut in half", "x.docx", GOOD_DOCX[: len(GOOD_DOCX) // 2], "broken DOCX"),
    ("docx without its main part", "x.docx", docx(None, secret="<a/>"), "broken DOCX"),
    ("docx of broken xml", "x.docx", docx(document(paragraph("secret"))[:-9]), "broken DOCX"),
    (
        "docx nested too deep",
        "x.docx",
        docx(document("<w:p>" * 2000 + "secret" + "</w:p>" * 2000)),
        "broken DOCX",
    ),
    ("docx that lies about its size", "x.docx", lying_docx(), "broken DOCX"),
    (
        "docx with nothing to read",
        "x.docx",
        docx(document(paragraph(" ") + "<w:p><!--secret--></w:p>")),
        NO_TEXT,
    ),
    ("docx with a billion laughs", "x.docx", docx(document(paragraph("secret &a9;"), LAUGHS)), "broken DOCX"),
    (
        "docx with an entity",
        "x.docx",
        docx(document(paragraph("secret"), "<!DOCTYPE w [<!ENTITY a 'b'>]>")),
        DTD,
    ),
    (
        "docx zip bomb",
        "x.docx",
        docx(document(paragraph("secret" * 300_000))),
        "zip bomb: unpacks to more than 1 MiB",
    ),
    (
        "docx with too much text",
        "x.docx",
        docx(document(paragraph("secret" * 30_000))),
        "more than 100000 characters",
    ),
    ("html of scripts", "x.html", "<script>secret</script><style>secret</style>", NO_TEXT),
    ("html of hidden text", "x.html", "<p hidden>secret<p style='display:none'>secret", NO_TEXT),
    ("zip named html", "x.html", GOOD_DOCX, "a ZIP, not text (wrong extension?)"),
    ("pdf named txt", "x.txt", GOOD_PDF, "a PDF, not text (wrong extension?)"),
    ("doc named md", "x.md", OLE + b"secret", "a old Office file, not text (wrong extension?)"),
    ("txt with NUL bytes", "x.txt", b"secret\0secret", "binary, or UTF-16 without its mark"),
    ("UTF-16 without its mark", "x.txt", "secret".encode("utf-16-be"), "binary, or UTF-16 without its mark"),
    ("UTF-16 of odd length", "x.txt", "secret".encode("utf-16") + b"x", WRONG_MARK),
    ("UTF-16 with half a pair", "x.txt", b"\xff\xfes\0\x00\xd8e\0", WRONG_MARK),
    ("UTF-8 mark before Latin-1", "x.txt", b"\xef\xbb\xbfsecret caf\xe9", WRONG_MARK),
    ("txt in no encoding", "x.txt", b"secret" + bytes(range(1, 256)) * 20, "unknown text encoding"),
    ("blank txt", "x.txt", " \n\t\n", NO_TEXT),
    ("txt above the size limit", "x.txt", "secret " * 200_000, "larger than 1 MiB"),
    ("txt above the text limit", "x.txt", "secret " * 20_000, "more than 100000 characters"),
    ("unknown format", "x.xyz", "secret", "unknown format .xyz"),
    ("no suffix", "x", "secret", "unknown format"),
    ("suffix that may be private", "x.secretsecret", "secret", "unknown format"),
]

TEXT_CASES = [
    Case(name, partial(file, path, content), "text", why) for name, path, content, why in CONTENTS
] + [
    Case("docx that pastes a file", entity, "text", DTD),
    Case("folder named pdf", partial(directory, "x.pdf"), "text", "a folder, not a file"),
    Case("dangling link", partial(link, "x.txt", "nowhere"), "text", "a link, not a file"),
    Case("link", partial(link, "x.txt", "target.txt"), "text", "a link, not a file"),
    Case("named pipe", partial(pipe, "x.txt"), "text", "not a regular file"),
    Case("file without rights", partial(unreadable, "x.txt"), "text", "not readable: permission denied"),
    Case("missing file", partial(missing, "x.txt"), "text", "not readable: no such file or directory"),
    Case(
        "html nested 100,000 deep",
        partial(file, "x.html", "<div>" * 100_000 + "secret"),
        "text",
        "took longer than 1 s",
        small(seconds=1),
    ),
    Case(
        "pdf that takes all memory",
        partial(file, "x.pdf", bomb_pdf(1_000_000)),
        "text",
        "reader crashed (or needed more than 64 MiB)",
        small(memory_mib=64),
    ),
    Case(
        "txt that takes all memory",
        partial(file, "x.txt", "secret " * 140_000),
        "text",
        "needed more than 2 MiB",
        small(memory_mib=2, characters=10**6),
    ),
]
