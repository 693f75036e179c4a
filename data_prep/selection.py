"""From everything a source holds to the documents that become rows, with a reason for each that does not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from data_prep.duplicates import drop_exact
from data_prep.labels import drop_contradictions, drop_rare
from data_prep.normalise import normalised
from data_prep.rows import Document, Drop, kept_and_dropped
from finetune.config.schema import DataConfig
from finetune.errors import DataError, RefusedError

NOT_SAMPLED = "not sampled"


@dataclass(frozen=True)
class Selection:
    """What was read: the documents kept, in source order, and the drops."""

    documents: list[Document]
    drops: list[Drop]
    lost_fraction: float
    """Share lost of the documents that the source's own filters let through."""

    def read(self) -> int:
        """Number of documents read."""
        return len(self.documents) + len(self.drops)

    def reasons(self) -> dict[str, int]:
        """Drops per reason, the most frequent first."""
        counts = Counter(drop.reason for drop in self.drops)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def told(self) -> str:
        """One line for the terminal."""
        return f"read {self.read():,} documents, kept {len(self.documents):,}; {_told(self.drops)}"


def select(found: Iterable[Document | Drop], data: DataConfig) -> Selection:
    """Normalised, free of contradictions, exact duplicates and rare labels, sampled where asked.

    Raises DataError where nothing is left, RefusedError where more was lost than the budget allows.
    """
    documents, drops = kept_and_dropped(
        item if isinstance(item, Drop) else normalised(item) for item in found
    )
    if not documents and not drops:
        where = data.source.path or data.source.package
        raise DataError(f"{where} holds no document; check data.source")
    documents, contradictions = drop_contradictions(documents)
    documents, copies = drop_exact(documents)
    documents, rare = drop_rare(documents, data.min_label_rows)
    drops += contradictions + copies + rare
    lost_fraction = _within_budget(documents, drops, data)
    documents, unsampled = _sample(documents, data)
    if not documents:
        raise DataError(
            f"no document of {len(drops) + len(unsampled)} is left; {_told(drops)}; check the data config"
        )
    return Selection(documents, drops + unsampled, lost_fraction)


def _within_budget(documents: Sequence[Document], drops: Sequence[Drop], data: DataConfig) -> float:
    lost = [drop for drop in drops if drop.lost]
    share = len(lost) / max(1, len(lost) + len(documents))
    if documents and share > data.max_dropped_fraction:
        raise RefusedError(
            f"{len(lost)} of {len(lost) + len(documents)} documents ({share:.1%}) would be lost, above "
            f"data.max_dropped_fraction={data.max_dropped_fraction}; {_told(lost)}; mend the data, or "
            "raise the setting"
        )
    return share


def _told(drops: Sequence[Drop]) -> str:
    counts = Counter(drop.reason for drop in drops).most_common()
    return "dropped: " + (", ".join(f"{count:,} '{reason}'" for reason, count in counts) or "none")


def _sample(documents: Sequence[Document], data: DataConfig) -> tuple[list[Document], list[Drop]]:
    """As many documents as `max_rows` by seed, in source order, again without labels that became rare."""
    if data.max_rows is None or len(documents) <= data.max_rows:
        return list(documents), []
    drawn = sorted(documents, key=lambda document: document.origin.lot(data.seed, "sample"))[: data.max_rows]
    chosen = {document.origin for document in drawn}
    kept, unsampled = kept_and_dropped(
        document if document.origin in chosen else Drop(document.origin, NOT_SAMPLED, lost=False)
        for document in documents
    )
    kept, rare = drop_rare(kept, data.min_label_rows)
    return kept, unsampled + [
        replace(drop, reason=f"{drop.reason} in the sample", lost=False) for drop in rare
    ]
