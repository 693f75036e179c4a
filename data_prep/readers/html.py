"""HTML: what a reader of the page sees, a line a block, cells of a table apart by tabs."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from data_prep.readers.extracted import Extracted, require_short, require_text
from data_prep.readers.text import decoded
from finetune.config.data import LimitsConfig

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
HEAD_BYTES = 4096
UNSEEN = frozenset(
    "head script style template noscript title object iframe svg datalist audio video -comment".split()
)
BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hr legend li main menu nav ol p pre section summary table ul".split()
)
HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
TEXT = "-text"
ROW, CELL = "\x1e", "\x1f"


def extract(content: bytes, limits: LimitsConfig) -> Extracted:
    """The visible text of a page. Raises UnreadableError where there is none, or too much."""
    from selectolax.lexbor import LexborHTMLParser

    declared = DECLARED.search(content[:HEAD_BYTES])
    page, _ = decoded(content, declared[1].decode("ascii") if declared else None)
    root = LexborHTMLParser(page).root
    text = _laid_out(_pieces(root), limits.characters) if root else ""
    return Extracted(require_text(text), (), f"selectolax@{version('selectolax')}")


def _pieces(root: "LexborNode") -> Iterator[str]:
    """Texts and marks in reading order; with a stack, as nested tags would exhaust a recursion."""
    waiting: list[tuple[LexborNode, bool] | str] = [(root, False)]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, str):
            yield piece
            continue
        node, is_preformatted = piece
        name = node.tag or ""
        if name == TEXT:
            yield _tidied(node.text_content or "", is_preformatted)
        elif not _is_unseen(node, name):
            before, after = _edges(node, name)
            yield before
            waiting.append(after)
            inside = is_preformatted or name == "pre"
            waiting.extend((child, inside) for child in reversed(list(_children(node))))


def _children(node: "LexborNode") -> Iterator["LexborNode"]:
    child = node.child
    while child is not None:
        yield child
        child = child.next


def _tidied(text: str, is_preformatted: bool) -> str:
    text = text.translate({ord(ROW): " ", ord(CELL): " "})
    return text if is_preformatted else re.sub(r"\s+", " ", text)


def _is_unseen(node: "LexborNode", name: str) -> bool:
    if name in UNSEEN:
        return True
    attributes = node.attributes
    return "hidden" in attributes or bool(HIDDEN_STYLE.search(attributes.get("style") or ""))


def _edges(node: "LexborNode", name: str) -> tuple[str, str]:
    """What stands before and after an element's text."""
    if name in BLOCKS:
        return "\n", "\n"
    if name == "br":
        return "\n", ""
    if name == "tr":
        return ROW, ""
    if name in ("td", "th") and _has_cell_before(node):
        return CELL, ""
    return "", ""


def _has_cell_before(node: "LexborNode") -> bool:
    earlier = node.prev
    while earlier is not None and earlier.tag not in ("td", "th"):
        earlier = earlier.prev
    return earlier is not None


def _laid_out(pieces: Iterator[str], max_characters: int) -> str:
    kept, characters = [], 0
    for piece in pieces:
        characters += len(piece)
        require_short(characters, max_characters)
        kept.append(piece)
    text = re.sub(r" {2,}", " ", "".join(kept))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text))
    text = re.sub(rf"[ \n]*{CELL}[ \n]*", "\t", text)
    return re.sub(rf"[ \n]*{ROW}[ \n]*", "\n", text).strip()
