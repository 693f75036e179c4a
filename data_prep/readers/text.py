"""Plain text and Markdown, in the encoding that its bytes show."""

import codecs

from data_prep.readers.extracted import Extracted, UnreadableError, require_short, require_text
from finetune.config.data import LimitsConfig

MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

NEAR = 0.05
"""Coherence, of 0 to 1, that tells two encodings of a short text no better apart than chance."""


def extract(content: bytes, limits: LimitsConfig) -> Extracted:
    """The text of a file. Raises UnreadableError where it is binary or of an unknown encoding."""
    text, encoding = decoded(content)
    require_short(len(text), limits.characters)
    return Extracted(require_text(text), (), encoding)


def decoded(content: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text and its encoding: by its mark, as `declared` inside the file, as UTF-8, or as its letters suggest.

    Raises UnreadableError where none of them fits.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return _strict(content, encoding), encoding
    if b"\0" in content:
        raise UnreadableError("binary, or UTF-16 without its mark")
    for encoding in filter(None, (declared, "utf-8")):
        try:
            return content.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            continue
    return _guessed(content)


def _strict(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise UnreadableError("not the encoding that its first bytes announce") from None


def _guessed(content: bytes) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    matches = from_bytes(content)
    best = matches.best()
    if best is None:
        raise UnreadableError("unknown text encoding")
    # a handful of accents fits cp1250, cp775 and others as well as cp1252, which is what such files mostly are
    likely = (match for match in matches if match.encoding == "cp1252" and match.chaos <= best.chaos)
    best = next((match for match in likely if match.coherence > best.coherence - NEAR), best)
    return str(best), best.encoding
