"""From everything a source holds to the items that become rows, with a reason for each that does not."""

from collections import Counter
from collections.abc import Iterable, Sequence

from data_prep.corpus import Corpus
from data_prep.duplicates import drop_exact
from data_prep.items import Item
from data_prep.labels import drop_contradictions, drop_others, drop_rare
from data_prep.rows import Origin
from finetune.config.data import DataConfig, RowForm
from finetune.errors import DataError, RefusedError

NOT_SAMPLED = "not sampled"


def select(corpus: Corpus, data: DataConfig) -> None:
    """Drop contradictions, exact duplicates, rare labels and what was not sampled.

    Raises DataError where nothing is left, RefusedError where more was lost than the budget allows.
    """
    items = corpus.items
    if not items:
        where = data.source.path or data.source.package or data.source.url_from_env
        raise DataError(f"{where} holds no document; check data.source")
    require_spans(corpus, data)
    if data.only_labels is not None:
        drop_others(items, data.only_labels)
    drop_contradictions(items, data.form)
    drop_exact(items, data.form)
    if data.form is not RowForm.extract:
        drop_rare(items, data.min_label_rows)
    require_budget(items, data)
    _sample(items, data)
    if not any(not item.reason for item in items):
        raise DataError(f"no document of {len(items)} is left; {drops_told(items)}; check the data config")


def lost_fraction(items: Iterable[Item]) -> float:
    """The share of documents lost, of those that the source's own filters let through and the sample kept."""
    lost, kept = lost_documents(items)
    return lost / max(1, lost + kept)


def lost_documents(items: Iterable[Item]) -> tuple[int, int]:
    """Documents of which nothing is left for other reasons than a setting, and documents of which something is.

    A document with one passage that is lost and others that were not sampled is neither.
    """
    kept, lost, spared = set[Origin](), set[Origin](), set[Origin]()
    for item in items:
        side = (lost if item.lost else spared) if item.reason else kept
        side.add(item.whole)
    return len(lost - kept - spared), len(kept)


def reasons(items: Iterable[Item]) -> dict[str, int]:
    """Drops per reason, the most frequent first."""
    counts = Counter(item.reason for item in items if item.reason)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def drops_told(items: Iterable[Item]) -> str:
    """The drops in one line for people."""
    found = reasons(items)
    return "dropped: " + (", ".join(f"{count:,} '{reason}'" for reason, count in found.items()) or "none")


def require_budget(items: Sequence[Item], data: DataConfig) -> None:
    """Raise RefusedError where more is lost than `data.max_dropped_fraction` allows."""
    lost, kept = lost_documents(items)
    if kept and lost > data.max_dropped_fraction * (lost + kept):
        told = drops_told(item for item in items if item.lost)
        raise RefusedError(
            f"{lost} of {lost + kept} documents ({lost / (lost + kept):.1%}) would be lost, above "
            f"data.max_dropped_fraction={data.max_dropped_fraction}; {told}; mend the data, or raise the setting"
        )


def require_spans(corpus: Corpus, data: DataConfig) -> None:
    """Raise RefusedError where more marked passages are lost than `data.max_lost_span_fraction` allows."""
    spans, most = corpus.spans, data.max_lost_span_fraction
    read = spans["annotated"] - spans["unread"]
    asked = read - spans["not_asked"]
    if spans["unread"] > most * spans["annotated"] or asked - spans["recoverable"] > most * asked:
        raise RefusedError(
            f"of {spans['annotated']} marked passages {spans['unread']} stand in files that are missing or unreadable; "
            f"of {asked} asked about {spans['missing']} were not found and {spans['cut']} are longer than any window "
            f"shows; above data.max_lost_span_fraction={data.max_lost_span_fraction}; mend the annotations, or raise "
            "data.windows.overlap_chars or the setting"
        )


def _sample(items: Sequence[Item], data: DataConfig) -> None:
    """Keep whole documents, drawn by seed, while `max_rows` texts or windows hold them; no labels that became rare."""
    kept = [item for item in items if not item.reason]
    if data.max_rows is None or len(kept) <= data.max_rows:
        return
    size = Counter(item.whole for item in kept)
    room = data.max_rows
    for whole in sorted(size, key=lambda whole: whole.lot(data.seed, "sample")):
        if size[whole] > room:
            size[whole] = 0
        room -= size[whole]
    for item in kept:
        if not size[item.whole]:
            item.drop(NOT_SAMPLED, lost=False)
    if data.form is not RowForm.extract:
        drop_rare(kept, data.min_label_rows, " in the sample", lost=False)
