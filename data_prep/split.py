"""Which rows belong together, and on which side of the split each such component stands."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.duplicates import Pair, near_pairs
from data_prep.rows import SIDES, Document
from finetune.config.schema import DataConfig, SplitConfig
from finetune.errors import DataError, RefusedError

TRAIN = "train"


@dataclass(frozen=True)
class Division:
    """The split: for each document its component and its side, and the near duplicates that were joined."""

    component_of: list[int]
    sides: list[str]
    pairs: list[Pair]


def divide(documents: Sequence[Document], data: DataConfig) -> Division:
    """Split by components of near duplicates and groups. Raises DataError or RefusedError where it cannot."""
    pairs = near_pairs([document.text for document in documents], data.near_duplicates)
    component_of = components(documents, pairs)
    require_splittable(component_of, data.split)
    return Division(component_of, assign(documents, component_of, data.split, data.seed), pairs)


def components(documents: Sequence[Document], pairs: Iterable[Pair]) -> list[int]:
    """For each document the position of the first document that pairs and groups join it to."""
    parent = list(range(len(documents)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    first_of_group: dict[str, int] = {}
    for position, document in enumerate(documents):
        for group in document.groups:
            join(first_of_group.setdefault(group, position), position)
    for one, other in pairs:
        join(one, other)
    return [root(position) for position in range(len(documents))]


def require_splittable(component_of: Sequence[int], split: SplitConfig) -> None:
    """Raise DataError below three components, RefusedError where one is too large to be placed fairly."""
    sizes = Counter(component_of)
    if len(sizes) < len(SIDES):
        raise DataError(
            f"{len(component_of)} rows form {len(sizes)} group(s) of related texts, but train, val and test "
            "need one each; add documents, or raise data.near_duplicates.jaccard if unlike texts are joined"
        )
    largest = max(sizes.values())
    share = largest / len(component_of)
    if share > split.max_component_fraction:
        raise RefusedError(
            f"the largest group of related texts holds {share:.1%} of the rows ({largest} of "
            f"{len(component_of)}), above data.split.max_component_fraction={split.max_component_fraction}; "
            "raise data.near_duplicates.jaccard or choose a finer data.source.group_field, or raise "
            "data.split.max_component_fraction to accept it"
        )


def assign(
    documents: Sequence[Document], component_of: Sequence[int], split: SplitConfig, seed: int
) -> list[str]:
    """The side of each document: whole components, label by label near the fractions, drawn by seed.

    Independent of ids, and so of the HMAC key.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for position, component in enumerate(component_of):
        members[component].append(position)
    held = {name: Counter(documents[item].target for item in items) for name, items in members.items()}
    turn = {name: documents[name].origin.lot(seed, "turn") for name in members}
    placement = _Placement(Counter(document.target for document in documents), split)
    # Large components first, while every side has room for them.
    for name in sorted(members, key=lambda name: (-len(members[name]), turn[name])):
        placement.place(name, held[name], documents[name].origin.lot(seed, "side"))
    placement.fill_empty_sides()
    return [placement.side_of[component] for component in component_of]


class _Placement:
    """The rows that each side still needs, in all and of each label, while components are placed."""

    def __init__(self, labels: Counter[str], split: SplitConfig) -> None:
        shares = (1 - split.val_fraction - split.test_fraction, split.val_fraction, split.test_fraction)
        fractions = dict(zip(SIDES, shares, strict=True))
        rows = labels.total()
        self.room = {side: fraction * rows for side, fraction in fractions.items()}
        self.need = {
            side: {label: fraction * count for label, count in labels.items()}
            for side, fraction in fractions.items()
        }
        self.unlearned = {label for label, count in labels.items() if count > 1}
        self.side_of: dict[int, str] = {}
        self.size_of: dict[int, int] = {}

    def place(self, name: int, held: Counter[str], lot: float) -> None:
        """Put one component, which holds so many rows of each label, where its lot falls."""
        side = self._choose(held, lot)
        self.side_of[name], self.size_of[name] = side, held.total()
        self.room[side] -= held.total()
        for label, count in held.items():
            self.need[side][label] -= count
        if side == TRAIN:
            self.unlearned -= held.keys()

    def _choose(self, held: Counter[str], lot: float) -> str:
        fits = [side for side in SIDES if held.total() <= self.room[side] + 0.5]
        if TRAIN in fits and not self.unlearned.isdisjoint(held):
            return TRAIN  # a label that training never shows cannot be measured either
        wants = {side: self._want(side, held) for side in fits}
        # Drawn, not given to the neediest: that would leave no templated text for the test set.
        mark = lot * sum(wants.values())
        for side, want in wants.items():
            mark -= want
            if mark < 0:
                return side
        return max(SIDES, key=lambda side: self.room[side])

    def _want(self, side: str, held: Counter[str]) -> float:
        """How much a side needs the labels of a component, those aside that it would get far too many of."""
        needs = ((count, self.need[side][label]) for label, count in held.items())
        return sum(count * max(0.0, need) for count, need in needs if count - need <= max(1.0, need))

    def fill_empty_sides(self) -> None:
        """Give a side that got nothing (tiny data) the smallest component of the side with most of them."""
        for side in SIDES:
            counts = Counter(self.side_of.values())
            if counts[side]:
                continue
            richest = max(SIDES, key=lambda other: counts[other])
            spare = [name for name, where in self.side_of.items() if where == richest]
            self.side_of[min(spare, key=lambda name: self.size_of[name])] = side
