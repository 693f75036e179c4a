"""Which rows belong together, and on which side of the split each such component stands."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus import Corpus
from data_prep.duplicates import component_labels, near_edges
from data_prep.items import Item
from data_prep.rows import SIDES
from data_prep.shingles import Indices
from finetune.config.data import DataConfig, SplitConfig
from finetune.errors import DataError, RefusedError

TRAIN = "train"


@dataclass(frozen=True)
class Division:
    """For each kept item its component, named by the component's first item, and its side; and what was joined."""

    component_of: Indices
    sides: list[str]
    edges: Indices
    """The near duplicates that were joined, as positions among the kept items."""


def divide(corpus: Corpus, kept: Sequence[int], data: DataConfig, name_of: Callable[[Item], str]) -> Division:
    """Split by components of near duplicates, documents and groups.

    `name_of` gives an item's opaque id. Raises DataError or RefusedError where the rows cannot be split.
    """
    items = [corpus.items[index] for index in kept]
    mask = np.zeros(len(corpus.items), dtype=np.bool_)
    mask[list(kept)] = True
    edges = near_edges(corpus.shingles, corpus.shingle_counts, mask, data.near_duplicates)
    edges = np.searchsorted(np.asarray(kept), edges)
    component_of = components(items, edges)
    require_splittable(items, component_of, edges, data, name_of)
    if all(item.time for item in items):
        sides = assign_by_time(items, component_of, data.split, data.seed)
    else:
        sides = assign(items, component_of, data.split, data.seed)
    return Division(component_of, sides, edges)


def components(items: Sequence[Item], edges: Indices) -> Indices:
    """For each item the first item that near duplicates, equal texts, documents and groups join it to."""
    ties: list[tuple[int, int]] = []
    first: dict[object, int] = {}
    for position, item in enumerate(items):
        for key in (item.whole, *item.groups, *([item.text] if item.text else [])):
            held = first.setdefault(key, position)
            if held != position:
                ties.append((held, position))
    more = np.array(ties, dtype=np.int64).reshape(-1, 2)
    return component_labels(np.concatenate([edges, more]), len(items))


def require_splittable(
    items: Sequence[Item],
    component_of: Indices,
    edges: Indices,
    data: DataConfig,
    name_of: Callable[[Item], str],
) -> None:
    """Raise DataError below three components, RefusedError where one is too large to be placed fairly."""
    sizes = np.bincount(component_of)
    if np.count_nonzero(sizes) < len(SIDES):
        raise DataError(
            f"{len(items)} rows form {np.count_nonzero(sizes)} group(s) of related texts, but train, val and test "
            "need one each; add documents, or raise data.near_duplicates.jaccard if unlike texts are joined"
        )
    largest, share = int(sizes.max()), float(sizes.max()) / len(items)
    if share <= data.split.max_component_fraction:
        return
    raise RefusedError(
        f"the largest group of related texts holds {share:.1%} of the rows ({largest} of {len(items)}), "
        f"above data.split.max_component_fraction={data.split.max_component_fraction}; "
        + _bridge(items, component_of == int(sizes.argmax()), edges, data, name_of)
        + "; or raise data.split.max_component_fraction to accept it"
    )


def _bridge(
    items: Sequence[Item],
    inside: NDArray[np.bool_],
    edges: Indices,
    data: DataConfig,
    name_of: Callable[[Item], str],
) -> str:
    """What joins a component, and the setting that would part it."""
    joined = edges[inside[edges[:, 0]]]
    rows = np.count_nonzero(inside)
    if rows == 1:
        return "that is a single text: add others"
    if len({items[position].whole for position in np.flatnonzero(inside).tolist()}) == 1:
        return "they are the parts of one document: add others"
    if 2 * len(joined) < rows:
        return "equal texts or a group key join most of them: choose a finer data.source.group_field"
    degrees = np.bincount(joined.ravel())
    hub = int(degrees.argmax())
    share = 0.8 * rows / len(items)
    return (
        f"the template of row {name_of(items[hub])} (its document is in {items[hub].origin.path}) bridges them, near "
        f"{degrees[hub]} of the rows: leave boilerplate out of the comparison with "
        f"data.near_duplicates.max_shingle_fraction={share:.2g}, or raise data.near_duplicates.jaccard"
    )


def assign(items: Sequence[Item], component_of: Indices, split: SplitConfig, seed: int) -> list[str]:
    """The side of each item: whole components, label by label near the fractions, drawn by seed.

    Independent of ids, and so of the HMAC key.
    """
    placement = _Placement(items, split)
    sized = [
        (-len(members), items[members[0]].origin.lot(seed, "turn"), members)
        for members in _members(component_of)
    ]
    # Large components first, while every side has room for them.
    for _, _, members in sorted(sized, key=lambda entry: entry[:2]):
        held = Counter(label for position in members for label in items[position].labels)
        placement.place(members, held, items[members[0]].origin.lot(seed, "side"))
    return placement.sides()


def assign_by_time(items: Sequence[Item], component_of: Indices, split: SplitConfig, seed: int) -> list[str]:
    """The side of each item: the components with the newest items are the test set, the next ones val.

    A component that spans a cut goes to its newest item's side, so that train never sees past the cut.
    """
    placement = _Placement(items, split)
    dated = [
        (
            max(str(items[position].time) for position in members),
            items[members[0]].origin.lot(seed, "turn"),
            members,
        )
        for members in _members(component_of)
    ]
    for _, _, members in sorted(dated, key=lambda entry: entry[:2], reverse=True):
        waiting = [side for side in ("test", "val") if placement.room[side] > 0]
        placement.put(waiting[0] if waiting else TRAIN, members, Counter())
    return placement.sides()


def _members(component_of: Indices) -> Iterator[list[int]]:
    """The positions of each component, first component first."""
    order = np.argsort(component_of, kind="stable")
    cuts = np.flatnonzero(np.diff(component_of[order])) + 1
    positions = order.tolist()
    for start, end in pairwise([0, *cuts.tolist(), len(positions)]):
        yield positions[start:end]


class _Placement:
    """The rows that each side still needs, in all and of each label, while components are placed."""

    def __init__(self, items: Sequence[Item], split: SplitConfig) -> None:
        labels = Counter(label for item in items for label in item.labels)
        shares = (1 - split.val_fraction - split.test_fraction, split.val_fraction, split.test_fraction)
        fractions = dict(zip(SIDES, shares, strict=True))
        self.fraction = fractions
        self.rows = dict.fromkeys(SIDES, 0)
        self.room = {side: fraction * len(items) for side, fraction in fractions.items()}
        self.need = {
            side: {label: fraction * count for label, count in labels.items()}
            for side, fraction in fractions.items()
        }
        self.unlearned = {label for label, count in labels.items() if count > 1}
        self.side_of = [""] * len(items)
        self.smallest: dict[str, list[list[int]]] = {side: [] for side in SIDES}
        self.components: Counter[str] = Counter()

    def place(self, members: list[int], held: Counter[str], lot: float) -> None:
        """Put one component, which holds so many rows of each label, where its lot falls."""
        self.put(self._choose(len(members), held, lot), members, held)

    def put(self, side: str, members: list[int], held: Counter[str]) -> None:
        """Put one component on a side."""
        for position in members:
            self.side_of[position] = side
        self.components[side] += 1
        # Two at most are ever taken from a side, to fill the two others.
        self.smallest[side] = sorted([*self.smallest[side], members], key=len)[:2]
        self.rows[side] += len(members)
        self.room[side] -= len(members)
        for label, count in held.items():
            self.need[side][label] -= count
        if side == TRAIN:
            self.unlearned -= held.keys()

    def _choose(self, size: int, held: Counter[str], lot: float) -> str:
        fits = [side for side in SIDES if size <= self.room[side] + 0.5]
        if TRAIN in fits and not self.unlearned.isdisjoint(held):
            return TRAIN  # a label that training never shows cannot be measured either
        # Behind its share of what was placed so far: else a side may be full of large components, or of small ones.
        placed = size + sum(self.rows.values())
        behind = {side: self.fraction[side] * placed - self.rows[side] for side in fits}
        wants = {side: max(0.0, behind[side]) * self._want(side, held) for side in fits}
        # Drawn, not given to the neediest: that would leave no templated text for the test set.
        mark = lot * sum(wants.values())
        for side, want in wants.items():
            mark -= want
            if mark < 0:
                return side
        return max(SIDES, key=lambda side: self.room[side])

    def _want(self, side: str, held: Counter[str]) -> float:
        """How much a side needs the labels of a component, those aside that it would get far too many of."""
        if not held:
            return max(0.0, self.room[side])
        needs = ((count, self.need[side][label]) for label, count in held.items())
        return sum(count * max(0.0, need) for count, need in needs if count - need <= max(1.0, need))

    def sides(self) -> list[str]:
        """The side of each item. One that got nothing (tiny data) gets the smallest component of the richest."""
        for side in SIDES:
            if self.components[side]:
                continue
            richest = max(SIDES, key=lambda other: self.components[other])
            for position in self.smallest[richest].pop(0):
                self.side_of[position] = side
            self.components[side] += 1
            self.components[richest] -= 1
        return self.side_of
