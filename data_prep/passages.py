"""What rows ask about: whole texts, windows of them with the passages to quote, or marked passages themselves."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from data_prep.normalise import Normalised, normalise, normalised
from data_prep.rows import Ask, Document, Passage, Span
from data_prep.spans import Located, Lost, locate
from data_prep.windows import Interval, recoverable, windows
from finetune.config.data import DataConfig, RowForm, WindowConfig

NO_TEXT = "no text left after normalising"
NOTHING_MARKED = "no marked passage that is asked about"
CUT = "longer than any window shows: raise data.windows.overlap_chars"


@dataclass
class Cutting:
    """What one document becomes."""

    passages: list[Passage] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    """Marked passages that were not found or stand whole in no window."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of marked passages: annotated = not_asked + found + missing, found = recoverable + cut."""
    reason: str = ""
    """Why there is no passage."""


def passages(document: Document, data: DataConfig, asked: Sequence[str]) -> Cutting:
    """The passages of a document under `data.form`; `data.labels` or else `asked` are the labels asked about."""
    if data.form is RowForm.whole:
        text = normalise(document.text)
        whole = Passage(text, document.origin.start, document.origin.end, document.asks)
        return Cutting([whole]) if text else Cutting(reason=NO_TEXT)
    page = normalised(document.text)
    labels = asked if data.labels is None else data.labels
    cutting = Cutting()
    if not page.text:
        cutting.lost = [Lost(span.label, NO_TEXT) for span in document.spans]
        cutting.counts.update(annotated=len(document.spans), missing=len(document.spans))
        cutting.reason = NO_TEXT
        return cutting
    located = _located(document.spans, page, labels, cutting)
    if data.form is RowForm.extract:
        _extract(document, page, located, labels, data.windows, cutting)
    else:
        _clauses(document, page, located, cutting)
    return cutting


def _located(
    spans: Sequence[Span], page: Normalised, labels: Collection[str], cutting: Cutting
) -> list[Located]:
    """The spans asked about, where they stand; what is missing goes into the cutting."""
    wanted = [span for span in spans if span.label in labels]
    found, missing = locate(wanted, page)
    cutting.lost += [Lost(miss.span.label, miss.reason) for miss in missing]
    cutting.counts.update(
        annotated=len(spans),
        not_asked=len(spans) - len(wanted),
        missing=len(missing),
        found=len(wanted) - len(missing),
    )
    return found


def _extract(
    document: Document,
    page: Normalised,
    located: Sequence[Located],
    labels: Sequence[str],
    settings: WindowConfig,
    cutting: Cutting,
) -> None:
    """One passage a window; a marked passage belongs to every window that holds it whole."""
    ranges = windows(page.text, settings)
    for number, (start, end) in enumerate(ranges):
        quotes: dict[str, list[str]] = defaultdict(list)
        for part in sorted(located, key=lambda part: (part.start, part.end)):
            if start <= part.start and part.end <= end:
                quotes[part.label].append(page.text[part.start : part.end])
        asks = tuple(Ask(label, list(dict.fromkeys(quotes[label]))) for label in labels)
        cutting.passages.append(_passage(document, page, (start, end), asks, number))
    _, cut = recoverable({(part.start, part.end) for part in located}, ranges)
    torn = {part.span: part.label for part in located if (part.start, part.end) in set(cut)}
    cutting.lost += [Lost(label, CUT) for label in torn.values()]
    cutting.counts.update(recoverable=cutting.counts["found"] - len(torn), cut=len(torn))


def _clauses(document: Document, page: Normalised, located: Sequence[Located], cutting: Cutting) -> None:
    """One passage a distinct marked range, asked for all of its labels: always a list, one label or more."""
    labels: dict[Interval, set[str]] = defaultdict(set)
    for part in located:
        labels[part.start, part.end].add(part.label)
    for place in sorted(labels):
        cutting.passages.append(_passage(document, page, place, (Ask("", sorted(labels[place])),), None))
    cutting.counts.update(recoverable=cutting.counts["found"], cut=0)
    if not labels:
        cutting.reason = NOTHING_MARKED


def _passage(
    document: Document, page: Normalised, place: Interval, asks: tuple[Ask, ...], window: int | None
) -> Passage:
    start, end = place
    inside = page.text[start:end]
    start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
    at = document.origin.start
    return Passage(inside.strip(), at + page.to_raw(start), at + page.to_raw(end), asks, window)
