"""PDF: the text layer, page by page, through pypdfium2 (never PyMuPDF: its licence is AGPL)."""

from importlib.metadata import version

from data_prep.readers.extracted import Extracted, UnreadableError, require_short
from finetune.config.data import LimitsConfig

HEAD_BYTES = 1024
"""Readers look for a PDF's mark so far into the file."""
LINE_END_HYPHEN = "\ufffe"
"""What pdfium writes for a hyphen that it takes for a broken word's."""
PASSWORD, SECURITY = 4, 5


def extract(content: bytes, limits: LimitsConfig) -> Extracted:
    """The text of a document, its pages a line break apart. Raises UnreadableError with the reason."""
    from pypdfium2 import PdfDocument, PdfiumError

    if b"%PDF-" not in content[:HEAD_BYTES]:
        raise UnreadableError("not a PDF (wrong extension?)")
    try:
        document = PdfDocument(content)
        if len(document) > limits.pages:
            raise UnreadableError(f"more than {limits.pages} pages")
        pages, texts, characters = [], [], 0
        for page in document:
            text = page.get_textpage().get_text_range().replace("\r\n", "\n").replace(LINE_END_HYPHEN, "-")
            page.close()
            pages.append(characters)
            texts.append(text)
            characters += len(text) + 1
            require_short(characters, limits.characters)
    except PdfiumError as error:
        is_locked = error.err_code in (PASSWORD, SECURITY)
        raise UnreadableError("encrypted" if is_locked else "broken PDF") from None
    if not any(text.strip() for text in texts):
        raise UnreadableError("no text layer (scanned?)")
    return Extracted("\n".join(texts), tuple(pages), f"pypdfium2@{version('pypdfium2')}")
