"""Duplicates, components and sides on literal texts, and the proof on splits made by hand."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.duplicates import near_pairs, shingles
from data_prep.normalise import normalise
from data_prep.rows import Document, Origin
from data_prep.split import assign, components
from data_prep.verify_split import Placed, verify
from finetune.config.schema import NearDuplicateConfig, SplitConfig
from finetune.errors import RefusedError

NEAR = NearDuplicateConfig(shingle_words=2, jaccard=0.5)


def document(number: int, target: str = "x", groups: tuple[str, ...] = ()) -> Document:
    return Document(Origin("f", "0" * 64, number, number + 1), f"text {number}", target, groups)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafe\u0301", "caf\u00e9"),
        (" one\r\ntwo\rthree\u2028four ", "one\ntwo\nthree\nfour"),
        ("a \t\u00a0 b\x00c\ufeff", "a b c"),
        ("a  \n\n \n\n\n  b", "a\n\nb"),
        ("\u00a7 1 \u00bd", "\u00a7 1 \u00bd"),  # NFC, not NFKC: a half stays a half
    ],
)
def test_text_has_one_form(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


def test_shingles_are_runs_of_words_and_short_texts_are_one() -> None:
    assert shingles("The MIT, the mit the", 2) == [("the", "mit"), ("mit", "the")]
    assert shingles("MIT", 3) == [("mit",)]
    assert shingles("?!", 3) == [("?!",)]


def test_near_pairs_reach_the_threshold_exactly() -> None:
    texts = ["a b c d", "a b c e", "a b x y", "q r s t"]  # pair 0-1 shares 2 of 4 shingles, 0-2 one of 5
    assert near_pairs(texts, NEAR) == [(0, 1)]
    assert near_pairs(texts, NearDuplicateConfig(2, 0.51)) == []
    assert near_pairs(texts, NearDuplicateConfig(2, 0.2)) == [(0, 1), (0, 2), (1, 2)]


def test_near_pairs_miss_none_that_brute_force_finds() -> None:
    draw = random.Random(7)  # noqa: S311  (test data)
    texts = [" ".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(150)]
    sets = [set(shingles(text, 2)) for text in texts]
    for threshold in (0.3, 0.5, 0.6, 0.7, 1.0):
        expected = [
            (one, other)
            for other in range(150)
            for one in range(other)
            if len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= threshold
        ]
        assert near_pairs(texts, NearDuplicateConfig(2, threshold)) == sorted(expected)


def test_pairs_and_groups_join_through_each_other() -> None:
    documents = [
        document(0),
        document(1, groups=("g",)),
        document(2),
        document(3, groups=("g", "h")),
        document(4, groups=("h",)),
        document(5),
    ]
    assert components(documents, [(0, 3)]) == [0, 0, 2, 0, 0, 5]


def test_sides_are_near_their_fractions_for_every_label() -> None:
    documents = [document(number, "abcde"[number % 5]) for number in range(500)]
    sides = assign(documents, range(500), SplitConfig(val_fraction=0.1, test_fraction=0.2), seed=3)
    assert [sides.count(side) for side in ("train", "val", "test")] == [350, 50, 100]
    for label in range(5):
        of_label = sides[label::5]
        assert [of_label.count(side) for side in ("train", "val", "test")] == [70, 10, 20]


def test_large_components_reach_the_test_set_too() -> None:
    components_of_four = [number - number % 4 for number in range(400)]
    documents = [document(number) for number in range(400)]
    sides = assign(documents, components_of_four, SplitConfig(val_fraction=0.1, test_fraction=0.2), seed=0)
    assert [sides.count(side) for side in ("train", "val", "test")] == [280, 40, 80]


@pytest.mark.parametrize("seed", range(8))
def test_a_label_of_one_component_is_trained_and_no_side_is_empty(seed: int) -> None:
    documents = [document(0, "rare"), document(1, "rare"), document(2), document(3), document(4)]
    sides = assign(documents, [0, 0, 2, 3, 4], SplitConfig(val_fraction=0.1, test_fraction=0.2), seed)
    assert sides[:2] == ["train", "train"]
    assert set(sides) == {"train", "val", "test"}


def placed(*texts: tuple[str, str]) -> list[Placed]:
    return [Placed(f"id{number}", side, text, f"g{number}") for number, (side, text) in enumerate(texts)]


CLEAN = [("train", "a b c d"), ("val", "e f g h"), ("test", "a b x y")]


def test_a_clean_split_is_measured() -> None:
    proof = verify(placed(*CLEAN), NEAR, seed=0)
    assert proof.cross_split_max == {"train/val": 0.0, "train/test": 0.2, "val/test": 0.0}
    assert proof.random_leak == 0


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (("test", "a b c e"), "row id0 in train and row id3 in test are near duplicates"),
        (("val", "A  b c\nd"), "row id0 in train and row id3 in val share one text"),
    ],
)
def test_a_leak_past_the_splitter_is_caught_and_its_text_is_not_told(
    planted: tuple[str, str], message: str
) -> None:
    with pytest.raises(RefusedError, match=message) as refused:
        verify(placed(*CLEAN, planted), NEAR, seed=0)
    assert planted[1] not in str(refused.value)


def test_a_component_or_source_group_on_two_sides_and_an_empty_side_are_caught() -> None:
    rows = placed(*CLEAN)
    cut = Placed("id3", "test", "k l m n", "g0", ("acme",))
    with pytest.raises(RefusedError, match="row id0 in train and row id3 in test share one group"):
        verify([*rows, cut], NEAR, seed=0)
    same_source = Placed("id4", "val", "o p q r", "g4", ("acme",))
    with pytest.raises(RefusedError, match="row id3 in test and row id4 in val share one source group"):
        verify([*rows, cut, same_source], NEAR, seed=0)
    with pytest.raises(RefusedError, match="the split has no val row"):
        verify([rows[0], rows[2]], NEAR, seed=0)


def test_a_random_split_of_near_duplicates_is_counted() -> None:
    sides = [side for side, rows in (("train", 40), ("test", 10), ("val", 2)) for _ in range(rows)]
    twins = [(side, f"{row}a {row}b {row}c {row}d {end}") for row, side in enumerate(sides) for end in "xy"]
    proof = verify(placed(*twins), NearDuplicateConfig(2, 0.6), seed=0)
    # 20 of 104 rows would be test rows; the twin of each lands in train with probability 80 / 103
    assert 10 <= proof.random_leak <= 20


def test_the_proof_shares_no_code_with_the_splitter() -> None:
    root = Path(__file__).resolve().parents[2]
    code = "import sys, data_prep.verify_split; print([name for name in sys.modules if 'data_prep.' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['data_prep.verify_split']"
