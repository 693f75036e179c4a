"""Opaque ids, the rows that carry them, and the private ledger that maps them back to the source."""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.rows import Document, Drop, Origin, Row, messages_of
from data_prep.selection import Selection
from data_prep.verify_split import Placed
from finetune.config.schema import DataConfig

DIGITS = 16


class Ids:
    """Ids that reveal nothing without the key, and are the same as long as the key is."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def row(self, origin: Origin) -> str:
        """Id of the row made from a document."""
        return self._id("row", origin)

    def document(self, origin: Origin) -> str:
        """Id of a source document."""
        return self._id("document", origin)

    def group(self, first: Origin) -> str:
        """Id of a component, named by its first document."""
        return self._id("group", first)

    def _id(self, kind: str, origin: Origin) -> str:
        text = f"{kind}|{origin.path}|{origin.start}|{origin.end}"
        return hmac.digest(self.key, text.encode(), "sha256").hex()[:DIGITS]


def make_rows(
    documents: Sequence[Document], component_of: Sequence[int], data: DataConfig, ids: Ids
) -> list[Row]:
    """One row a document, in the same order, by the row contract."""
    return [
        Row(
            id=ids.row(document.origin),
            group=ids.group(documents[component].origin),
            messages=messages_of(document.text, data),
            target=document.target,
            sources=[
                {"sha256": document.origin.sha256, "start": document.origin.start, "end": document.origin.end}
            ],
            document=ids.document(document.origin),
        )
        for document, component in zip(documents, component_of, strict=True)
    ]


def placed(documents: Sequence[Document], rows: Sequence[Row], sides: Sequence[str]) -> list[Placed]:
    """The rows as the proof of the split wants them."""
    return [
        Placed(row.id, side, document.text, row.group, document.groups)
        for document, row, side in zip(documents, rows, sides, strict=True)
    ]


def ledger_lines(
    selection: Selection, rows: Sequence[Row], sides: Sequence[str], ids: Ids
) -> Iterator[Mapping[str, Any]]:
    """For every document read: where it stands, and the row or the drop it became, in source order."""
    outcomes: list[tuple[Origin, dict[str, Any]]] = [
        (document.origin, {"outcome": side, "id": row.id, "group": row.group})
        for document, row, side in zip(selection.documents, rows, sides, strict=True)
    ]
    outcomes += [(drop.origin, {"outcome": "dropped", "reason": drop.reason}) for drop in selection.drops]
    for origin, outcome in sorted(outcomes, key=lambda item: (item[0].path, item[0].start)):
        yield {
            "document": ids.document(origin),
            "path": origin.path,
            "sha256": origin.sha256,
            "start": origin.start,
            "end": origin.end,
            **outcome,
        }


def dropped_lines(drops: Sequence[Drop], ids: Ids) -> Iterator[Mapping[str, Any]]:
    """For every drop its opaque document, the reason, and whether it counts against the budget."""
    for drop in sorted(drops, key=lambda drop: (drop.origin.path, drop.origin.start)):
        yield {"document": ids.document(drop.origin), "reason": drop.reason, "lost": drop.lost}
