"""Equal texts, of which one is kept, and nearly equal texts, which are kept and joined.

Near duplicates are found by an exact set-similarity join with prefix filtering (Chaudhuri et al., ICDE 2006;
Bayardo et al., WWW 2007; Xiao et al., "PPJoin", WWW 2008): no pair at the threshold is missed, as MinHash-LSH
would miss some, and boilerplate, which stands in many texts, makes no candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.items import Item
from data_prep.shingles import Indices
from data_prep.spill import Spill
from finetune.config.data import NearDuplicateConfig, RowForm

EXACT = "exact duplicate"
PAIR_BATCH = 40_000
RANK_BITS = np.uint64(32)
BITMAP_WORDS = 8
ROUNDING = 1e-9

Mask = NDArray[np.bool_]


def drop_exact(items: Sequence[Item], form: RowForm) -> None:
    """Keep the first of each set of equal texts, with the groups of all of them."""
    first: dict[bytes, Item] = {}
    for item in items:
        if item.reason:
            continue
        kept = first.setdefault(item.key, item)
        if kept is item:
            continue
        item.drop(EXACT)
        # The dropped copy ties its group to the kept one: their other rows belong on one side too. Not so
        # clauses: the same sentence stands in half of all contracts.
        if form is not RowForm.clauses:
            kept.groups = tuple(dict.fromkeys((*kept.groups, *item.groups)))


def near_edges(shingles: Spill, counts: Indices, kept: Mask, near: NearDuplicateConfig) -> Indices:
    """Pairs of rows at or above the threshold, as an array of shape (pairs, 2), smaller row first.

    Not all such pairs, but enough: rows that any chain of similar pairs joins are joined by these. `counts` is
    the number of distinct shingles of each row; rows outside `kept` are not compared.
    """
    rows, ranks, counts = _shared(shingles, counts, kept, near)
    if not len(rows):
        return np.empty((0, 2), dtype=np.int64)
    compared = np.bincount(rows, minlength=len(counts)) > 0
    # Most rows are like no other: the rounds below must not pay for them.
    numbers = (np.cumsum(compared) - 1).astype(np.uint32)
    index = _Index.of(numbers[rows], ranks, counts[compared], near.jaccard)
    return np.flatnonzero(compared)[index.edges()]


def component_labels(edges: Indices, rows: int) -> Indices:
    """For each row the smallest row that edges join it to."""
    ones = np.ones(len(edges), dtype=np.int8)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(rows, rows))
    _, numbers = connected_components(graph, directed=False)
    _, first = np.unique(numbers, return_index=True)
    return np.asarray(first[numbers], dtype=np.int64)


def _shared(
    shingles: Spill, counts: Indices, kept: Mask, near: NearDuplicateConfig
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Indices]:
    """Row and shingle of every shingle that two rows share, shingles ranked by rarity; the rows' sizes.

    Only of rows that can be in a pair: one whose own shingles fill its prefix cannot.
    """
    limit = len(kept) + 1
    if near.max_shingle_fraction is not None:
        limit = max(2, int(near.max_shingle_fraction * int(kept.sum())))
    counts = np.where(kept, counts, 0)
    shared = np.zeros(len(counts), dtype=np.int64)
    rows_found: list[NDArray[np.uint32]] = []
    held_by: list[NDArray[np.uint32]] = []
    for numbers, rows in shingles.parts():
        mask = kept[rows]
        numbers, rows = numbers[mask], rows[mask]
        starts = np.flatnonzero(np.diff(numbers, prepend=~numbers[:1]))
        holders = np.diff(np.append(starts, len(numbers))).astype(np.uint32)
        each = np.repeat(holders, holders)
        counts -= np.bincount(rows[each > limit], minlength=len(counts))
        wanted = (each >= 2) & (each <= limit)
        rows_found.append(rows[wanted])
        held_by.append(holders[(holders >= 2) & (holders <= limit)])
        shared += np.bincount(rows_found[-1], minlength=len(counts))
    holders = np.concatenate(held_by)
    rank_of = np.empty(len(holders), dtype=np.uint32)
    rank_of[np.argsort(holders, kind="stable")] = np.arange(len(holders), dtype=np.uint32)
    rows = np.concatenate(rows_found)
    ranks = np.repeat(rank_of, holders)
    matters = (counts - shared < _probe_length(counts, near.jaccard))[rows]
    return rows[matters], ranks[matters], counts


def _probe_length(counts: Indices, threshold: float) -> Indices:
    """How many of its rarest shingles a row is looked up by: a similar row has one of them."""
    return np.where(counts > 0, counts - np.ceil(threshold * counts - ROUNDING).astype(np.int64) + 1, 0)


def _index_length(counts: Indices, threshold: float) -> Indices:
    """How many of its rarest shingles a row is found by, if the row that looks has at least as many shingles."""
    share = 2 * threshold / (1 + threshold)
    return np.where(counts > 0, counts - np.ceil(share * counts - ROUNDING).astype(np.int64) + 1, 0)


@dataclass(frozen=True)
class _Postings:
    """The rows that a shingle of their prefix may join, shingle by shingle; in each the likeliest hub first."""

    rows: Indices
    position: Indices
    """Of the shingle in the row's order of rarity."""
    indexed: Mask
    starts: Indices
    lengths: Indices

    def without_hubs(self) -> "_Postings":
        """Without each shingle's first row, which was compared with all others."""
        mask = np.ones(len(self.rows), dtype=np.bool_)
        mask[self.starts] = False
        return self._of(mask, self.lengths - 1)

    def still_apart(self, component: Indices) -> "_Postings":
        """Without the shingles whose rows are joined by now."""
        if not len(self.starts):
            return self
        of_row = component[self.rows]
        apart = np.minimum.reduceat(of_row, self.starts) < np.maximum.reduceat(of_row, self.starts)
        return self._of(np.repeat(apart, self.lengths), self.lengths[apart])

    def rarest_first(self, component: Indices) -> "_Postings":
        """In each shingle the rows of its small components first: those of the largest need no look at each other."""
        shingle = np.repeat(np.arange(len(self.starts)), self.lengths)
        key = shingle * len(component) + component[self.rows]
        _, which, held = np.unique(key, return_inverse=True, return_counts=True)
        order = np.lexsort((held[which], shingle))
        return _Postings(
            self.rows[order], self.position[order], self.indexed[order], self.starts, self.lengths
        )

    def _of(self, mask: Mask, lengths: Indices) -> "_Postings":
        starts = np.cumsum(lengths) - lengths
        return _Postings(self.rows[mask], self.position[mask], self.indexed[mask], starts, lengths)

    def candidates(self, component: Indices, index: "_Index") -> Indices:
        """Keys of pairs of a shingle's first row and each other one that may be similar."""
        counts, threshold = index.counts, index.threshold
        hub = np.repeat(self.starts, self.lengths)
        other = np.flatnonzero(component[self.rows[hub]] != component[self.rows])
        hub = hub[other]
        size, other_size = counts[self.rows[hub]], counts[self.rows[other]]
        hub_smaller = (size < other_size) | ((size == other_size) & (self.rows[hub] < self.rows[other]))
        small, large = np.where(hub_smaller, hub, other), np.where(hub_smaller, other, hub)
        sizes, large_sizes = counts[self.rows[small]], counts[self.rows[large]]
        # PPJoin's position filter: what can still be shared from the first shared shingle on
        left = np.minimum(sizes - self.position[small], large_sizes - self.position[large])
        needed = np.ceil(threshold / (1 + threshold) * (sizes + large_sizes) - ROUNDING)
        possible = self.indexed[small] & (sizes >= threshold * large_sizes - ROUNDING) & (left >= needed)
        one, two, needed = self.rows[small][possible], self.rows[large][possible], needed[possible]
        possible = index.most_shared(one, two) >= needed
        one, two = one[possible], two[possible]
        return _sorted_once(np.minimum(one, two) << np.int64(32) | np.maximum(one, two))


@dataclass(frozen=True)
class _Index:
    """The shared shingles of every row, rarest first: keys are row << 32 | rank, sorted."""

    keys: NDArray[np.uint64]
    ends: Indices
    """Where a row's keys end."""
    counts: Indices
    bits: NDArray[np.uint64]
    """Of each row 512 parities: how many of its shared shingles fall on a bit, odd or even."""
    threshold: float

    @staticmethod
    def of(
        rows: NDArray[np.uint32], ranks: NDArray[np.uint32], counts: Indices, threshold: float
    ) -> "_Index":
        keys = rows.astype(np.uint64)
        keys <<= RANK_BITS
        keys |= ranks
        keys.sort()
        ends = np.cumsum(np.bincount(rows, minlength=len(counts)))
        return _Index(keys, ends, counts, _parities(keys, ends), threshold)

    def most_shared(self, one: Indices, two: Indices) -> Indices:
        """A bound for the shingles that two rows share: every bit that differs is a shingle of one row alone.

        The bitmap filter of Sandes, Teodoro and Melo (Information Systems 88, 2020): it loses no pair, and spares
        most of those that are alike in a few phrases the exact count.
        """
        differing = np.zeros(len(one), dtype=np.int64)
        for word in range(self.bits.shape[1]):
            differing += np.bitwise_count(self.bits[one, word] ^ self.bits[two, word])
        held = np.diff(self.ends, prepend=0)
        return (held[one] + held[two] - differing) // 2

    def edges(self) -> Indices:
        """Similar pairs, hub by hub, until no shingle of a prefix holds two rows that could still be joined."""
        component = np.arange(len(self.counts))
        postings = self._postings()
        failed = np.empty(0, dtype=np.int64)
        found: list[Indices] = [np.empty((0, 2), dtype=np.int64)]
        while len(postings.rows):
            keys = postings.candidates(component, self)
            keys = keys[~np.isin(keys, failed)]
            pairs = np.stack((keys >> np.int64(32), keys & np.int64(0xFFFFFFFF)), axis=1)
            similar = self.similar(pairs)
            failed = _sorted_once(np.concatenate([failed, keys[~similar]]))
            postings = postings.without_hubs()
            if similar.any():
                found.append(pairs[similar])
                component = component_labels(np.concatenate(found), len(self.counts))
                postings = postings.still_apart(component).rarest_first(component)
            else:
                postings = postings.still_apart(component)
        return np.concatenate(found)

    def _postings(self) -> _Postings:
        held = np.diff(self.ends, prepend=0)
        rows = np.repeat(np.arange(len(held)), held)
        position = np.arange(len(rows)) - np.repeat(self.ends - held, held) + (self.counts - held)[rows]
        in_prefix = position < _probe_length(self.counts, self.threshold)[rows]
        rows, position = rows[in_prefix], position[in_prefix]
        ranks = (self.keys[in_prefix] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        # A row that shares most of its rare shingles is the likeliest centre of its cluster.
        holders = np.bincount(ranks)[ranks]
        score = np.bincount(rows, weights=holders > 1, minlength=len(held))
        order = np.lexsort((rows, -score[rows], ranks))
        order = order[holders[order] > 1]
        _, lengths = np.unique(ranks[order], return_counts=True)
        indexed = position < _index_length(self.counts, self.threshold)[rows]
        starts = np.cumsum(lengths) - lengths
        postings = _Postings(rows[order], position[order], indexed[order], starts, lengths)
        findable = np.logical_or.reduceat(postings.indexed, starts) if len(starts) else lengths > 0
        return postings._of(np.repeat(findable, lengths), lengths[findable])

    def similar(self, pairs: Indices) -> Mask:
        """Whether the exact Jaccard similarity of each pair reaches the threshold."""
        parts = [self._shared_count(pairs[start : start + PAIR_BATCH]) for start in _starts(len(pairs))]
        shared = np.concatenate([*parts, np.empty(0, dtype=np.int64)])
        union = self.counts[pairs].sum(axis=1) - shared
        return np.asarray(shared >= self.threshold * union - ROUNDING)

    def _shared_count(self, pairs: Indices) -> Indices:
        """How many shingles the rows of each pair share."""
        both = np.concatenate([self._ranks_of(pairs[:, side]) for side in (0, 1)])
        both.sort()
        twice = both[1:][both[1:] == both[:-1]] >> RANK_BITS
        return np.bincount(twice.astype(np.int64), minlength=len(pairs))

    def _ranks_of(self, rows: Indices) -> NDArray[np.uint64]:
        """The ranks of so many rows one after the other, each behind its position << 32."""
        lengths = np.diff(self.ends, prepend=0)[rows]
        shift = np.repeat(self.ends[rows] - np.cumsum(lengths), lengths)
        ranks = self.keys[np.arange(len(shift)) + shift] & np.uint64(0xFFFFFFFF)
        places = np.repeat(np.arange(len(rows), dtype=np.uint64), lengths)
        return np.asarray(places << RANK_BITS | ranks, dtype=np.uint64)


def _parities(keys: NDArray[np.uint64], ends: Indices) -> NDArray[np.uint64]:
    """For each row one bit after another, flipped by every shingle that falls on it."""
    spread = (keys & np.uint64(0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(55)
    flip = np.uint64(1) << (spread & np.uint64(63))
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
    bits = np.empty((len(ends), BITMAP_WORDS), dtype=np.uint64)
    for word in range(BITMAP_WORDS):
        values = np.where(spread >> np.uint64(6) == word, flip, np.uint64(0))
        bits[:, word] = np.bitwise_xor.reduceat(values, starts)
    return bits


def _sorted_once(numbers: Indices) -> Indices:
    """Sorted, each once; np.unique hashes, which takes three times as long."""
    numbers = np.sort(numbers)
    return numbers[np.flatnonzero(np.diff(numbers, prepend=-1))]


def _starts(length: int) -> Iterator[int]:
    return iter(range(0, length, PAIR_BATCH))
