"""Which targets may be learned: the closed set, no contradictions, enough rows of each."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from data_prep.normalise import folded
from data_prep.rows import Document, Drop, kept_and_dropped
from finetune.errors import DataError

CONTRADICTION = "equal text, different targets"


def require_known(target: str, labels: Sequence[str] | None, where: str) -> None:
    """Raise DataError where the closed set is configured and the target is not in it."""
    if labels is not None and target not in labels:
        raise DataError(
            f"{where}, string of length {len(target)}, is not one of the {len(labels)} data.labels; "
            "correct it, or add it to data.labels"
        )


def drop_contradictions(documents: Sequence[Document]) -> tuple[list[Document], list[Drop]]:
    """Without the texts that stand under several targets: nobody can tell which one is right."""
    targets: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        targets[folded(document.text)].add(document.target)
    return kept_and_dropped(
        Drop(document.origin, CONTRADICTION) if len(targets[folded(document.text)]) > 1 else document
        for document in documents
    )


def drop_rare(documents: Sequence[Document], min_rows: int) -> tuple[list[Document], list[Drop]]:
    """Without the targets that have fewer rows than can be learned and measured."""
    rows = Counter(document.target for document in documents)
    return kept_and_dropped(
        document
        if rows[document.target] >= min_rows
        else Drop(document.origin, f"label with fewer than {min_rows} rows")
        for document in documents
    )
