"""Components and sides on literal items, and the proof on splits made by hand."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.items import Item
from data_prep.rows import Origin
from data_prep.split import assign, assign_by_time, components, require_splittable
from data_prep.verify_split import Placement, Proof, verify
from finetune.config.data import DataConfig, NearDuplicateConfig, SplitConfig
from finetune.errors import RefusedError

NEAR = NearDuplicateConfig(shingle_words=2, jaccard=0.5)
TENTH_AND_FIFTH = SplitConfig(val_fraction=0.1, test_fraction=0.2)
NONE = np.empty((0, 2), dtype=np.int64)


def item(number: int, label: str = "x", groups: tuple[str, ...] = (), time: str | None = None) -> Item:
    origin = Origin("f", "0" * 64, number, number + 1)
    return Item(origin, origin, labels=(label,), groups=groups, time=time)


def test_pairs_groups_and_documents_join_through_each_other() -> None:
    groups = [(), ("g",), (), ("g", "h"), ("h",), (), ()]
    items = [item(number, groups=group) for number, group in enumerate(groups)]
    items[6].whole = items[5].whole  # two windows of one document
    assert components(items, np.array([[0, 3]])).tolist() == [0, 0, 2, 0, 0, 5, 5]
    items[2].text = items[5].text = b"equal"
    assert components(items, np.array([[0, 3]])).tolist() == [0, 0, 2, 0, 0, 2, 2]


def test_sides_are_near_their_fractions_for_every_label() -> None:
    items = [item(number, "abcde"[number % 5]) for number in range(500)]
    sides = assign(items, np.arange(500), TENTH_AND_FIFTH, seed=3)
    assert [sides.count(side) for side in ("train", "val", "test")] == [350, 50, 100]
    for label in range(5):
        of_label = sides[label::5]
        assert [of_label.count(side) for side in ("train", "val", "test")] == [70, 10, 20]


def test_rows_without_a_label_are_split_by_their_number() -> None:
    items = [item(number) for number in range(500)]
    for each in items:
        each.labels = ()
    sides = assign(items, np.arange(500), TENTH_AND_FIFTH, seed=3)
    assert [sides.count(side) for side in ("train", "val", "test")] == [350, 50, 100]


def test_large_components_reach_the_test_set_too() -> None:
    of_four = np.array([number - number % 4 for number in range(400)])
    sides = assign([item(number) for number in range(400)], of_four, TENTH_AND_FIFTH, seed=0)
    assert [sides.count(side) for side in ("train", "val", "test")] == [280, 40, 80]


@pytest.mark.parametrize("seed", range(8))
def test_a_label_of_one_component_is_trained_and_no_side_is_empty(seed: int) -> None:
    items = [item(0, "rare"), item(1, "rare"), item(2), item(3), item(4)]
    sides = assign(items, np.array([0, 0, 2, 3, 4]), TENTH_AND_FIFTH, seed)
    assert sides[:2] == ["train", "train"]
    assert set(sides) == {"train", "val", "test"}


def test_a_split_by_time_tests_on_the_newest_and_keeps_components_whole() -> None:
    items = [item(number, time=f"2026-01-{number + 1:02d}") for number in range(20)]
    component_of = np.arange(20)
    component_of[19] = 2  # an old text that came back yesterday
    sides = assign_by_time(items, component_of, TENTH_AND_FIFTH, seed=0)
    assert [number for number, side in enumerate(sides) if side == "test"] == [2, 17, 18, 19]
    assert [number for number, side in enumerate(sides) if side == "val"] == [15, 16]


def test_a_template_that_bridges_too_many_rows_is_named_with_the_setting_that_parts_them() -> None:
    items = [item(number) for number in range(10)]
    edges = np.array([[2, 4], [2, 5], [2, 6], [6, 7]])
    data = DataConfig(name="d", licence="x")
    with pytest.raises(RefusedError) as refused:
        require_splittable(
            items, components(items, edges), edges, data, lambda found: f"id{found.origin.start}"
        )
    message = str(refused.value)
    assert "holds 50.0% of the rows (5 of 10)" in message
    assert "the template of row id2 (its document is in f) bridges them, near 3 of the rows" in message
    assert "data.near_duplicates.max_shingle_fraction=0.4" in message


def test_a_group_key_that_joins_too_many_rows_is_named() -> None:
    items = [item(number, groups=("one",) if number < 5 else ()) for number in range(10)]
    data = DataConfig(name="d", licence="x")
    with pytest.raises(RefusedError, match="choose a finer data.source.group_field"):
        require_splittable(items, components(items, NONE), NONE, data, lambda found: "id")


def test_too_few_texts_and_one_long_document_are_told_apart() -> None:
    data = DataConfig(name="d", licence="x")
    items = [item(number) for number in range(4)]
    with pytest.raises(RefusedError, match="that is a single text: add others"):
        require_splittable(items, components(items, NONE), NONE, data, lambda found: "id")
    windows = [item(number) for number in range(8)]
    for window in windows[:5]:
        window.whole = windows[0].whole
    with pytest.raises(RefusedError, match="they are the parts of one document: add others"):
        require_splittable(windows, components(windows, NONE), NONE, data, lambda found: "id")


def placement(*rows: tuple[str, str], groups: Sequence[str] | None = None) -> Placement:
    return Placement(
        texts=[text for _, text in rows],
        sides=[side for side, _ in rows],
        groups=groups or [f"g{number}" for number in range(len(rows))],
        source_groups=[()] * len(rows),
        documents=list(range(len(rows))),
        labels=[("x",) if side == "train" else ("x", "y") for side, _ in rows],
        times=[None] * len(rows),
        name=lambda row: f"id{row}",
    )


def proved(found: Placement, folder: Path, near: NearDuplicateConfig = NEAR) -> Proof:
    return verify(found, near, 0, folder, workers=1)


CLEAN = [("train", "a b c d"), ("val", "e f g h"), ("test", "a b x y")]


def test_a_clean_split_is_measured(tmp_path: Path) -> None:
    proof = proved(placement(*CLEAN), tmp_path)
    assert proof.cross_split_max == {"train/val": 0.0, "train/test": 0.2, "val/test": 0.0}
    assert proof.cross_split_bound == proof.cross_split_max
    assert proof.coverage == {"median": 0.3333, "p90": 0.3333, "max": 0.3333}
    assert proof.random_leak == 0
    assert proof.unlearned_labels == 1


def test_the_highest_similarity_is_the_highest_of_all_pairs(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(list("abcdefgh"), 8)) for _ in range(90)]
    rows = [(("train", "val", "test")[number % 3], text) for number, text in enumerate(texts)]
    pairs = [set(zip(text.split(), text.split()[1:], strict=False)) for text in texts]
    expected = max(
        len(pairs[one] & pairs[other]) / len(pairs[one] | pairs[other])
        for one in range(0, 90, 3)
        for other in range(2, 90, 3)
    )
    proof = proved(placement(*rows), tmp_path, NearDuplicateConfig(2, 0.99))
    assert proof.cross_split_max["train/test"] == round(expected, 4)


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (("test", "a b c e"), "row id0 in train and row id3 in test are near duplicates"),
        (("val", "A  b c\nd"), "row id0 in train and row id3 in val share one text"),
    ],
)
def test_a_leak_past_the_splitter_is_caught_and_its_text_is_not_told(
    planted: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=message) as refused:
        proved(placement(*CLEAN, planted), tmp_path)
    assert planted[1] not in str(refused.value)


def test_a_leak_among_a_thousand_rows_with_the_same_paragraph_is_caught(tmp_path: Path) -> None:
    paragraph = " ".join(f"boiler{word}" for word in range(8))
    rows = [
        (("train", "val", "test")[number % 3], f"{paragraph} r{number} s{number} t{number}")
        for number in range(1000)
    ]
    apart = NearDuplicateConfig(2, 0.6)  # two rows share 7 of 13 pairs: 0.54
    assert proved(placement(*rows), tmp_path / "a", apart).cross_split_max["train/test"] == 0.5385
    rows[500] = ("test", f"{paragraph} r3 s3 u3")  # 8 of 12
    with pytest.raises(RefusedError, match="row id3 in train and row id500 in test are near duplicates"):
        proved(placement(*rows), tmp_path / "b", apart)


def test_a_component_or_source_group_on_two_sides_and_an_empty_side_are_caught(tmp_path: Path) -> None:
    rows = [*CLEAN, ("test", "k l m n"), ("val", "o p q r")]
    with pytest.raises(RefusedError, match="row id0 in train and row id3 in test share one group"):
        proved(placement(*rows, groups=["g0", "g1", "g2", "g0", "g4"]), tmp_path)
    cut = placement(*rows)
    cut.source_groups[3:] = [("acme",), ("acme",)]  # type: ignore[index]
    with pytest.raises(RefusedError, match="row id3 in test and row id4 in val share one source group"):
        proved(cut, tmp_path)
    with pytest.raises(RefusedError, match="the split has no val row"):
        proved(placement(CLEAN[0], CLEAN[2]), tmp_path)


def test_training_on_the_future_is_a_leak(tmp_path: Path) -> None:
    late = placement(*CLEAN)
    late.times[:] = ["2026-03-01", "2026-01-15", "2026-02-01"]  # type: ignore[index]
    with pytest.raises(RefusedError) as refused:
        proved(late, tmp_path)
    assert refused.value.problems == [
        "leak: row id0 in train is newer than the group of row id1 in val, in a split by time",
        "leak: row id0 in train is newer than the group of row id2 in test, in a split by time",
    ]


def test_windows_of_one_document_on_two_sides_are_caught(tmp_path: Path) -> None:
    cut = placement(*CLEAN)
    cut.documents[2] = 0  # type: ignore[index]
    with pytest.raises(RefusedError, match="row id0 in train and row id2 in test share one document"):
        proved(cut, tmp_path)


def test_what_a_random_split_would_leak_is_expected_over_all_of_them(tmp_path: Path) -> None:
    sides = [side for side, rows in (("train", 40), ("test", 10), ("val", 2)) for _ in range(rows)]
    twins = [(side, f"{row}a {row}b {row}c {row}d {end}") for row, side in enumerate(sides) for end in "xy"]
    proof = proved(placement(*twins), tmp_path, NearDuplicateConfig(2, 0.6))
    # of 104 rows 20 are test rows; the twin of each is in train with probability 80 / 103
    assert proof.random_leak == round(20 * 80 / 103, 1)


def test_the_proof_shares_no_judgement_with_the_splitter() -> None:
    root = Path(__file__).resolve().parents[2]
    code = "import sys, data_prep.verify_split; print(*sorted(name for name in sys.modules if 'data_prep.' in name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        f"data_prep.{name}" for name in ("cross_similarity", "parallel", "spill", "verify_split")
    ]
