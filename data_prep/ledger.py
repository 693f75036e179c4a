"""The private ledger: for everything that was read, what became of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.corpus import Corpus
from data_prep.examples import Example, Ids
from data_prep.items import Item
from data_prep.rows import Origin


def ledger_lines(corpus: Corpus, examples: Sequence[Example], ids: Ids) -> Iterator[Mapping[str, Any]]:
    """For every passage and every document without one: where it stands and the row or the drop it became.

    `examples` are the items that were split, those dropped afterwards too. In source order; after them the
    spans that were lost and the texts near a held-out one.
    """
    placed = {example.position: example for example in examples}
    for position, item in enumerate(corpus.items):
        example = placed.get(position)
        group = {} if example is None else {"group": ids.group(example.first.origin)}
        if item.reason or example is None:
            outcome = {"outcome": "dropped", "reason": item.reason}
        else:
            outcome = {"outcome": example.side, "id": ids.row(item.origin)}
        yield {**_where(item.whole, item.origin, ids), **_part(item), **outcome, **group}
    for note in corpus.notes:
        yield {
            **_where(note.origin, note.origin, ids),
            "outcome": "note",
            "label": note.label,
            "reason": note.reason,
        }


def dropped_lines(items: Sequence[Item], ids: Ids) -> Iterator[Mapping[str, Any]]:
    """For every drop its opaque document, the reason, and whether it counts against the budget."""
    for item in items:
        if item.reason:
            yield {"document": ids.document(item.whole), "reason": item.reason, "lost": item.lost}


def _where(whole: Origin, origin: Origin, ids: Ids) -> dict[str, Any]:
    return {
        "document": ids.document(whole),
        "path": origin.path,
        "sha256": origin.sha256,
        "start": origin.start,
        "end": origin.end,
    }


def _part(item: Item) -> dict[str, Any]:
    found = {"window": item.window, "page": item.page, "extractor": item.extractor or None}
    return {key: value for key, value in found.items() if value is not None}
