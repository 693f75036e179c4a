"""Synthetic rows with planted near duplicates: what bench_prepare.py reads, and the truth about it.

Every row is 200 words, drawn from 50,000 with Zipf's exponent 1. One row in ten is a near duplicate: a copy of
an original with words replaced in one run or in several, at an exact Jaccard similarity between 0.6 and 0.95
over 5-word shingles (the target uniform, the value recorded measured on the two final rows). Sizes of clusters,
original included, are log-uniform from 2 to 1,000, so the median cluster has about 45 rows and the mean 160.
In one row of five 50 of the words are the same paragraph at a random place; a copy has its original's.
The same seed and number of rows give the same bytes.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

WORDS, VOCABULARY, SHINGLE, PARAGRAPH = 200, 50_000, 5, 50
SLOTS = WORDS - SHINGLE + 1
"""Positions of a shingle in a row."""
COPIES, BOILERPLATE = 0.1, 0.2
"""Shares of the rows."""
LOW, HIGH, LARGEST = 0.6, 0.95, 1000
LABELS = ("lease", "loan", "supply", "hosting")
BLOCK = 10_000

Ids = NDArray[np.uint16]
Components = NDArray[np.int64]
"""The number of each row's component; negative for a row that was dropped."""
Shingles = frozenset[tuple[int, ...]]


@dataclass(frozen=True)
class Planted:
    """The rows and what is known about them: pair i is rows `original[i]` and `copy[i]`, similar by `jaccard[i]`."""

    path: Path
    starts: NDArray[np.int64]
    """Where each row's line starts, in bytes, which are characters too; the file's size last."""
    original: NDArray[np.int64]
    copy: NDArray[np.int64]
    jaccard: NDArray[np.float64]


def planted(folder: Path, rows: int, seed: int = 0) -> Planted:
    """So many rows in `rows.jsonl` with the truth in `truth.txt`; made before, they are read."""
    path, truth = folder / "rows.jsonl", folder / "truth.txt"
    if not truth.exists():  # it comes last
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as stream, (folder / "truth.part").open("w") as pairs:
            _write(rows, np.random.default_rng(seed), stream, pairs)
        (folder / "truth.part").replace(truth)
    original, copy, jaccard = np.loadtxt(truth, unpack=True, ndmin=2)
    with path.open("rb") as lines:
        ends = np.cumsum([len(line) for line in lines])
    return Planted(path, np.r_[0, ends], original.astype(np.int64), copy.astype(np.int64), jaccard)


def _write(rows: int, rng: np.random.Generator, stream: TextIO, pairs: TextIO) -> None:
    draw, spelling = _Zipf(rng), _spelling()
    cluster_of, original_at = _clusters(rows, rng)
    paragraph = draw(PARAGRAPH)
    originals = _texts(draw, len(original_at), paragraph, rng)
    shingles = [_shingles(ids) for ids in originals]
    for first in range(0, rows, BLOCK):
        block = _texts(draw, min(BLOCK, rows - first), paragraph, rng)
        for row, ids in enumerate(block, first):
            cluster = cluster_of[row]
            if cluster >= 0 and row == original_at[cluster]:
                ids = originals[cluster]
            elif cluster >= 0:
                ids, jaccard = _copy(originals[cluster], shingles[cluster], draw, rng)
                pairs.write(f"{original_at[cluster]} {row} {jaccard:.6f}\n")
            label = LABELS[(cluster if cluster >= 0 else row) % len(LABELS)]
            text = " ".join([spelling[word] for word in ids.tolist()])
            stream.write(f'{{"text": "{text}", "target": "{label}"}}\n')


class _Zipf:
    """Draws words by rank: the word of rank r with a probability proportional to 1 / r."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.sums = np.cumsum(1 / np.arange(1, VOCABULARY + 1))

    def __call__(self, *shape: int) -> Ids:
        found = np.searchsorted(self.sums, self.rng.random(shape) * self.sums[-1])
        ids: Ids = np.minimum(found, VOCABULARY - 1).astype(np.uint16)
        return ids


def _spelling() -> list[str]:
    syllables = [consonant + vowel for consonant in "bdfghklmnprstvz" for vowel in "aeiou"]
    spelled = chain.from_iterable(product(syllables, repeat=length) for length in (1, 2, 3))
    return ["".join(parts) for parts in islice(spelled, VOCABULARY)]


def _clusters(rows: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Each row's cluster, -1 for none, and each cluster's original row."""
    sizes, copies = [], int(rows * COPIES)
    while copies:
        size = int(np.exp(rng.uniform(np.log(2), np.log(LARGEST + 1))))
        sizes.append(min(size, copies + 1))
        copies -= sizes[-1] - 1
    members = rng.permutation(rows)[: sum(sizes)]
    cluster_of = np.full(rows, -1)
    cluster_of[members] = np.repeat(np.arange(len(sizes)), sizes)
    return cluster_of.tolist(), members[np.cumsum([0, *sizes[:-1]])].tolist()


def _texts(draw: _Zipf, rows: int, paragraph: Ids, rng: np.random.Generator) -> Ids:
    texts = draw(rows, WORDS)
    for row in np.flatnonzero(rng.random(rows) < BOILERPLATE):
        place = rng.integers(WORDS - PARAGRAPH + 1)
        texts[row, place : place + PARAGRAPH] = paragraph
    return texts


def _copy(original: Ids, shingles: Shingles, draw: _Zipf, rng: np.random.Generator) -> tuple[Ids, float]:
    """The original with words replaced, and how similar the two are."""
    while True:
        target = rng.uniform(LOW, HIGH)
        copy = original.copy()
        for start, length in _runs(round(len(shingles) * (1 - target) / (1 + target)), rng):
            copy[start : start + length] = draw(length)
        found = _shingles(copy)
        jaccard = len(found & shingles) / len(found | shingles)
        if LOW <= jaccard <= HIGH:
            return copy, jaccard


def _runs(changed: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Runs of words, first word and length, that together change so many shingles: one run or several."""
    most = changed // SHINGLE
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, most + 1))
    # a run of n words changes n + 4 shingles, and 4 words before the next run keep the counts apart
    spans = SHINGLE + rng.multinomial(changed - SHINGLE * count, [1 / count] * count)
    slots = np.sort(rng.integers(0, SLOTS - changed + 1, count)) + np.cumsum(spans) - spans
    for slot, span in zip(slots.tolist(), spans.tolist(), strict=True):
        yield slot + SHINGLE - 1, span - SHINGLE + 1


def _shingles(ids: Ids) -> Shingles:
    words = ids.tolist()
    return frozenset(zip(*(words[offset:] for offset in range(SHINGLE)), strict=False))


def recall(rows: Planted, components: Components, low: float) -> float:
    """Share of the planted pairs at least so similar, both rows kept, whose rows are in one component."""
    one, other = components[rows.original], components[rows.copy]
    judged = (one >= 0) & (other >= 0) & (rows.jaccard >= low)
    return float((one == other)[judged].mean())


def false_merges(rows: Planted, components: Components, threshold: float) -> int:
    """How many joins fewer would do, were only pairs joined whose exact similarity reaches the threshold.

    Rows that were dropped after the joining, known by a negative component, may bridge those that were kept.
    """
    cluster = np.arange(len(components))
    cluster[rows.copy] = rows.original
    bridges: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(components < 0).tolist():
        bridges[cluster[row]].append(row)
    order = np.argsort(components, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(components[order])) + 1)
    wrong = 0
    with rows.path.open("rb") as stream:
        for group in groups:
            if len(group) > 1:
                near = [row for number in np.unique(cluster[group]) for row in bridges.get(number, ())]
                wrong += _parts(_read(stream, rows, [*group, *near]), len(group), threshold) - 1
    return wrong


def _read(stream: BinaryIO, rows: Planted, wanted: Sequence[int]) -> list[str]:
    texts = []
    for row in wanted:
        stream.seek(rows.starts[row])
        texts.append(json.loads(stream.readline())["text"])
    return texts


def _parts(texts: Sequence[str], members: int, threshold: float) -> int:
    """Into how many the first texts, the members, fall where only pairs at the threshold join texts."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if len(texts) > 5 * LARGEST:
        return members  # no planted clusters make such a component, and it would not fit in memory
    numbers: dict[tuple[str, ...], int] = {}
    sets = []
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        shingles = set(zip(*(words[offset:] for offset in range(SHINGLE)), strict=False))
        sets.append([numbers.setdefault(shingle, len(numbers)) for shingle in shingles])
    sizes = np.array([len(found) for found in sets])
    ends = np.r_[0, np.cumsum(sizes)]
    held = csr_array((np.ones(ends[-1], np.int32), np.concatenate(sets), ends))
    shared = (held @ held.T).toarray()
    similar = shared / (sizes[:, None] + sizes - shared) >= threshold
    return len(set(connected_components(csr_array(similar), directed=False)[1][:members].tolist()))
