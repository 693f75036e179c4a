"""Equal texts, of which one is kept, and nearly equal texts, which are kept and joined."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from data_prep.normalise import folded
from data_prep.rows import Document, Drop
from finetune.config.schema import NearDuplicateConfig

EXACT = "exact duplicate"
WORD = re.compile(r"\w+")

Pair = tuple[int, int]


def drop_exact(documents: Sequence[Document]) -> tuple[list[Document], list[Drop]]:
    """The first of each set of equal texts, with the groups of all of them, and the others as drops."""
    kept: dict[str, Document] = {}
    drops: list[Drop] = []
    for document in documents:
        text = folded(document.text)
        if text not in kept:
            kept[text] = document
            continue
        drops.append(Drop(document.origin, EXACT))
        # The dropped copy ties its group to this one: their other rows belong on one side too.
        groups = dict.fromkeys((*kept[text].groups, *document.groups))
        kept[text] = replace(kept[text], groups=tuple(groups))
    return list(kept.values()), drops


def shingles(text: str, words: int) -> list[tuple[str, ...]]:
    """The distinct runs of so many words, in order; a shorter text is one shingle."""
    found = WORD.findall(text.casefold()) or [folded(text)]
    runs = zip(*(found[offset:] for offset in range(words)), strict=False)
    return list(dict.fromkeys(runs)) or [tuple(found)]


def near_pairs(texts: Sequence[str], near: NearDuplicateConfig) -> list[Pair]:
    """All pairs of positions whose exact Jaccard similarity reaches the threshold, smaller position first."""
    numbered = _rarest_first([shingles(text, near.shingle_words) for text in texts])
    sets = [frozenset(row) for row in numbered]
    holders: dict[int, list[int]] = defaultdict(list)
    pairs: list[Pair] = []
    for position, row in enumerate(numbered):
        prefix = row[: _prefix_length(len(row), near.jaccard)]
        candidates = dict.fromkeys(other for shingle in prefix for other in holders[shingle])
        pairs += [
            (other, position) for other in candidates if _jaccard(sets[other], sets[position]) >= near.jaccard
        ]
        for shingle in prefix:
            holders[shingle].append(position)
    return sorted(pairs)


def _rarest_first(rows: Sequence[Sequence[tuple[str, ...]]]) -> list[list[int]]:
    """Shingles as numbers, each row sorted so that what few rows share comes first."""
    counts = Counter(shingle for row in rows for shingle in row)
    rank = {
        shingle: number
        for number, (shingle, _) in enumerate(sorted(counts.items(), key=lambda item: item[1]))
    }
    return [sorted(rank[shingle] for shingle in row) for row in rows]


def _prefix_length(size: int, threshold: float) -> int:
    """How many of its rarest shingles a row is looked up by.

    Rows at the threshold share at least `threshold * size` shingles, so in one common order they share
    one of these (Chaudhuri et al., ICDE 2006); boilerplate, which comes last, costs nothing.
    """
    return size - math.ceil(threshold * size - 1e-9) + 1


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
