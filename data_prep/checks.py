"""What the finished split is asked before it is written: is it covered, does it leak, are its labels right."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.contamination import held_out_coverage
from data_prep.corpus import REPEATS, Corpus, Texts
from data_prep.examples import Example, Ids
from data_prep.items import Note, unit_of
from data_prep.parallel import slices
from data_prep.rows import Origin
from data_prep.split import TRAIN
from data_prep.suspects import MAX_ROWS, Suspect, Suspects, suspects
from data_prep.verify_split import Placement, Proof, verify
from finetune.config.data import DataConfig, RowForm

BATCH_ROWS = 1000
COVERED = "stands in the training texts"


@dataclass(frozen=True)
class Coverage:
    """How much of val and test stands in train, as n-grams, and how many rows that cost."""

    median: float
    p90: float
    dropped: int
    review: int
    repeats: int


def drop_covered(
    corpus: Corpus, members: Sequence[Example], data: DataConfig
) -> tuple[list[Example], Coverage]:
    """The members without the val and test rows that the training texts cover; near ones noted for review."""
    settings = data.contamination
    held = [member for member in members if member.side != TRAIN]
    train = corpus.texts([member.position for member in members if member.side == TRAIN])
    texts = corpus.texts([member.position for member in held])
    words: list[int] = []

    def counted() -> Iterator[list[str]]:
        for batch in _batches(texts):
            words.extend(len(text.split()) for text in batch)
            yield batch

    shares = np.nan_to_num(held_out_coverage(counted(), lambda: _batches(train), settings))
    covered = _covered_units(held, shares, words, data)
    review = 0
    for member, share in zip(held, shares.tolist(), strict=True):
        if unit_of(member.item, data.form) in covered:
            member.item.drop(COVERED)
        elif share >= settings.review_coverage:
            review += 1
            corpus.notes.append(Note(member.item.origin, "", f"{share:.2f} of it {COVERED}"))
    kept = [member for member in members if not member.item.reason]
    repeats = sum(item.reason == REPEATS for item in corpus.items)
    median, p90 = np.quantile(shares, (0.5, 0.9)).round(4).tolist() if len(shares) else (0.0, 0.0)
    return kept, Coverage(median, p90, len(members) - len(kept), review, repeats)


def _covered_units(
    held: Sequence[Example], shares: NDArray[np.float64], words: Sequence[int], data: DataConfig
) -> set[Origin]:
    """What is covered as a whole: of a document in windows, their mean by words."""
    found: dict[Origin, float] = defaultdict(float)
    size: Counter[Origin] = Counter()
    for member, share, count in zip(held, shares.tolist(), words, strict=True):
        unit = unit_of(member.item, data.form)
        found[unit] += share * count
        size[unit] += count
    settings = data.contamination
    return {
        unit
        for unit, count in size.items()
        if count >= settings.drop_words and found[unit] >= settings.drop_coverage * count
    }


def _batches(texts: Texts) -> Iterator[list[str]]:
    return (list(texts[part]) for part in slices(len(texts), BATCH_ROWS))


def prove(
    corpus: Corpus, members: Sequence[Example], data: DataConfig, ids: Ids, folder: Path, workers: int
) -> Proof:
    """The measured split. Raises RefusedError with the ids of the leaking rows where it leaks."""
    items = [member.item for member in members]
    placement = Placement(
        texts=corpus.texts([member.position for member in members]),
        sides=[member.side for member in members],
        groups=[member.component for member in members],
        source_groups=[item.groups for item in items],
        documents=[item.whole for item in items],
        labels=[item.labels for item in items],
        times=[item.time for item in items],
        name=lambda row: ids.row(items[row].origin),
    )
    return verify(placement, data.near_duplicates, data.seed, folder, workers)


def look_for_suspects(
    corpus: Corpus, members: Sequence[Example], data: DataConfig
) -> tuple[list[tuple[Example, Suspect]], dict[str, int]]:
    """Rows whose label the other groups contradict, likeliest error first, and how many rows were judged.

    Only where every row has one label of a set.
    """
    single = all(len(member.item.labels) == 1 for member in members)
    if data.form is not RowForm.whole or not data.has_label_set() or not single:
        return [], {}
    judged = sorted(members, key=lambda member: member.item.origin.lot(data.seed, "suspects"))[:MAX_ROWS]
    found: Suspects = suspects(
        list(corpus.texts([member.position for member in judged])),
        [member.item.labels[0] for member in judged],
        [member.component for member in judged],
        data.seed,
    )
    pairs = [(judged[suspect.position], suspect) for suspect in found.ranked]
    return pairs, {"judged": found.judged, "found": len(pairs)}


def suspect_lines(found: Sequence[tuple[Example, Suspect]], ids: Ids) -> Iterator[Mapping[str, Any]]:
    """One line a suspect, likeliest error first."""
    for member, suspect in found:
        yield {
            "id": ids.row(member.item.origin),
            "side": member.side,
            "label": member.item.labels[0],
            "probability": round(suspect.given_probability, 4),
            "suggested": suspect.predicted,
            "suggested_probability": round(suspect.predicted_probability, 4),
        }
