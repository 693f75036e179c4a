"""Shingles, exact copies and the near-duplicate join, beside brute force on literal and random texts."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep import spill
from data_prep.duplicates import EXACT, component_labels, drop_exact, near_edges
from data_prep.items import Item
from data_prep.rows import Origin
from data_prep.shingles import coverage_run, shingles
from data_prep.spill import Spill
from finetune.config.data import NearDuplicateConfig, RowForm

TEXTS = ["a b c d", "a b c e", "a b x y", "q r s t"]  # pair 0-1 shares 2 of 4 shingles, 0-2 one of 5


def sets(texts: Sequence[str], words: int) -> list[set[int]]:
    numbers, ends = shingles(texts, words)
    return [set(part.tolist()) for part in np.split(numbers, ends[:-1])]


def joined(
    texts: Sequence[str], near: NearDuplicateConfig, folder: Path, left_out: int | None = None
) -> list[list[int]]:
    numbers, ends = shingles(texts, near.shingle_words)
    counts = np.diff(ends, prepend=0)
    pairs = Spill(folder)
    half = len(texts) // 2
    cut = int(ends[half - 1])
    rows = np.repeat(np.arange(len(texts), dtype=np.uint32), counts)
    pairs.add(numbers[:cut], rows[:cut])
    pairs.add(numbers[cut:], rows[cut:])
    kept = np.ones(len(texts), dtype=np.bool_)
    if left_out is not None:
        kept[left_out] = False
    found: list[list[int]] = near_edges(pairs, counts, kept, near).tolist()
    return found


def test_shingles_are_distinct_runs_of_words_and_short_texts_are_one() -> None:
    assert [len(found) for found in sets(["The MIT, the mit the", "MIT", "?!", "", "a b c"], 2)] == [
        2,
        1,
        1,
        1,
        2,
    ]
    one, other, third = sets(["The MIT license", "x the mit", "license the"], 2)
    assert len(one & other) == 1
    assert not one & third
    # 6 words are 3 distinct runs of 4; the last row is shorter than a run
    assert [len(found) for found in sets(["a b c d e f", "a b c"], 4)] == [3, 1]


def test_a_coverage_run_is_shorter_for_short_texts() -> None:
    assert [coverage_run(words, 13) for words in (1, 8, 16, 17, 200)] == [1, 7, 13, 13, 13]


def test_the_threshold_is_reached_exactly(tmp_path: Path) -> None:
    assert joined(TEXTS, NearDuplicateConfig(2, 0.5), tmp_path) == [[0, 1]]
    assert joined(TEXTS, NearDuplicateConfig(2, 0.51), tmp_path) == []
    assert sorted(joined(TEXTS, NearDuplicateConfig(2, 0.2), tmp_path)) == [[0, 1], [0, 2]]


def test_rows_that_were_dropped_are_not_compared(tmp_path: Path) -> None:
    assert joined(TEXTS, NearDuplicateConfig(2, 0.5), tmp_path, left_out=0) == []


def test_boilerplate_can_be_left_out_of_the_comparison(tmp_path: Path) -> None:
    texts = [f"we agree as follows below {name} {name}x {name}y" for name in "abcdefgh"]
    assert len(joined(texts, NearDuplicateConfig(2, 0.3), tmp_path)) == 7
    assert joined(texts, NearDuplicateConfig(2, 0.3, max_shingle_fraction=0.5), tmp_path) == []


@pytest.mark.parametrize("held", [10, 10_000_000], ids=["on disk", "in memory"])
def test_no_pair_is_missed_and_none_is_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(spill, "HELD_PAIRS", held)
    draw = random.Random(7)  # noqa: S311  (test data)
    for trial in range(12):
        letters = "abcd" if trial % 2 else "abcdefghij"
        texts = [" ".join(draw.choices(letters, k=draw.randint(1, 14))) for _ in range(150)]
        found_in = sets(texts, 2)
        for threshold in (0.3, 0.5, 0.6, 0.7, 1.0):
            similar = [
                (one, other)
                for other in range(150)
                for one in range(other)
                if len(found_in[one] & found_in[other]) / len(found_in[one] | found_in[other]) >= threshold
            ]
            edges = joined(texts, NearDuplicateConfig(2, threshold), tmp_path / f"{trial}-{threshold}")
            assert {tuple(edge) for edge in edges} <= set(similar)
            assert labels(edges) == labels(similar)


def labels(edges: Sequence[Sequence[int]]) -> list[int]:
    found: list[int] = component_labels(np.array(edges, dtype=np.int64).reshape(-1, 2), 150).tolist()
    return found


def test_a_component_is_named_by_its_first_row() -> None:
    edges = np.array([[3, 5], [1, 5]])
    assert component_labels(edges, 6).tolist() == [0, 1, 2, 1, 4, 1]


def copies(form: RowForm) -> list[Item]:
    items = []
    for number, (key, group) in enumerate([(b"x", "g"), (b"y", "h"), (b"x", "h")]):
        origin = Origin("f", "0" * 64, number, number + 1)
        items.append(Item(origin, origin, key=key, groups=(group,)))
    drop_exact(items, form)
    return items


def test_the_first_of_equal_texts_is_kept_with_the_groups_of_all() -> None:
    items = copies(RowForm.whole)
    assert [item.reason for item in items] == ["", "", EXACT]
    assert items[0].groups == ("g", "h")


def test_an_equal_clause_does_not_tie_two_contracts() -> None:
    assert copies(RowForm.clauses)[0].groups == ("g",)


def test_a_spill_gives_back_what_it_took_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "HELD_PAIRS", 100)
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 2**64, 1000, dtype=np.uint64)
    numbers[500:] = numbers[:500]
    pairs = Spill(tmp_path / "s")
    for start in range(0, 1000, 90):
        rows = np.arange(start, min(start + 90, 1000), dtype=np.uint32)
        pairs.add(numbers[rows], rows)
    parts = list(pairs.parts())
    assert len(parts) == 64
    found = np.concatenate([part for part, _ in parts])
    rows = np.concatenate([part for _, part in parts])
    assert found.tolist() == sorted(numbers.tolist())
    assert numbers[rows].tolist() == found.tolist()
    assert [rows[at] < rows[at + 1] for at in range(0, 1000, 2)] == [True] * 500


def test_texts_of_the_same_few_sentences_do_not_take_the_join_apart(tmp_path: Path) -> None:
    draw = random.Random(3)  # noqa: S311  (test data)
    sentences = [" ".join(f"s{number}w{word}" for word in range(10)) for number in range(50)]
    texts = [" ".join(draw.choices(sentences, k=8)) for _ in range(10_000)]
    started = time.monotonic()
    assert joined(texts, NearDuplicateConfig(5, 0.7), tmp_path) == []  # two share one sentence in six
    assert (
        time.monotonic() - started < 20
    )  # 0.3 s; testing every pair with a phrase in common took over a minute
