import json
from pathlib import Path

import numpy as np
import pytest

from data_prep import suspects as module
from data_prep.suspects import Suspects, suspects

QUERIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "clinc150" / "data_full.json"
TOPICS = {
    "rent": "tenant landlord rent lease monthly deposit premises flat".split(),
    "loan": "bank borrower loan interest principal repay lender credit".split(),
    "sale": "goods buyer seller price delivery invoice ship order".split(),
}


def letters(rows: int) -> tuple[list[str], list[str]]:
    """Texts of six words, four of their topic's and two of any, and the topics in turn."""
    draw = np.random.default_rng(7)
    everything = [word for topic in TOPICS.values() for word in topic]
    labels = [list(TOPICS)[row % 3] for row in range(rows)]
    texts = [" ".join([*draw.choice(TOPICS[label], 4), *draw.choice(everything, 2)]) for label in labels]
    return texts, labels


def flipped(labels: list[str], share: float) -> tuple[list[str], set[int]]:
    """The labels with a share of them replaced by another, and where."""
    draw = np.random.default_rng(1)
    names = sorted(set(labels))
    places = draw.choice(len(labels), round(share * len(labels)), replace=False).tolist()
    given = list(labels)
    for place in places:
        given[place] = str(draw.choice([name for name in names if name != labels[place]]))
    return given, set(places)


def test_planted_flips_stand_first_with_the_label_they_had() -> None:
    texts, labels = letters(300)
    given, flips = flipped(labels, 0.05)
    found = suspects(texts, given, range(300), seed=0)
    first = found.ranked[:15]
    assert found.judged == 300
    assert len(flips) == 15
    assert len({suspect.position for suspect in first} & flips) >= 13
    for suspect in first:
        assert suspect.given_probability < 0.1 < 0.5 < suspect.predicted_probability
    assert sum(suspect.predicted == labels[suspect.position] for suspect in first) >= 13


def test_clean_labels_that_the_text_shows_have_no_suspects() -> None:
    texts = [" ".join(TOPICS[label]) + f" n{row}" for row, label in enumerate(list(TOPICS) * 20)]
    found = suspects(texts, list(TOPICS) * 20, range(60), seed=0)
    assert found.judged == 60
    assert found.ranked == []


def test_rows_of_one_group_do_not_vote_for_each_other() -> None:
    texts, labels = letters(120)
    copies = ["tenant landlord rent lease monthly deposit premises"] * 12
    texts, labels = texts + copies, labels + ["sale"] * 12
    apart = suspects(texts, labels, range(132), seed=0).ranked
    joined = suspects(texts, labels, [*range(120), *[120] * 12], seed=0).ranked
    wrong = set(range(120, 132))
    assert wrong <= {suspect.position for suspect in joined[:14]}
    assert not wrong & {suspect.position for suspect in apart[:14]}


def test_the_same_for_a_seed_and_another_order_of_ranks_for_another() -> None:
    texts, labels = letters(150)
    given, _ = flipped(labels, 0.1)
    once = suspects(texts, given, range(150), seed=4)
    assert once == suspects(texts, given, range(150), seed=4)
    assert once != suspects(texts, given, range(150), seed=5)


def test_a_suspect_is_below_its_labels_average_and_above_another_labels() -> None:
    probabilities = np.array(
        [
            [0.50, 0.50, 0.00],  # above label 1's average, but above its own label's too
            [0.15, 0.15, 0.70],  # below label 0's average of 0.3, above label 2's
            [0.25, 0.35, 0.40],  # the same, and less of its own label's probability than that average
            [0.40, 0.40, 0.20],  # label 1's average: 0.4
            [0.40, 0.20, 0.40],  # label 2's average: 0.4, not below
            [0.00, 0.00, 0.00],  # not judged
        ]
    )
    given, judged = np.array([0, 0, 0, 1, 2, 0]), np.array([True] * 5 + [False])
    assert module._contradicted(probabilities, given, judged) == [1, 2]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["a"] * 6, [0, 1, 2, 3, 4, 5]),
        (["a", "b"] * 3, [0] * 6),
        (["a", "b", "c", "d", "e", "f"], [0, 1, 2, 3, 4, 5]),
        ([], []),
    ],
    ids=["one label", "one group", "every label once", "no rows"],
)
def test_where_nothing_can_be_learned_there_are_no_suspects(labels: list[str], groups: list[int]) -> None:
    texts = [f"text number {row}" for row in range(len(labels))]
    assert suspects(texts, labels, groups, seed=0) == Suspects(0, [])


def test_rare_labels_are_left_out_and_not_counted_as_judged() -> None:
    texts, labels = letters(90)
    labels[0], labels[1], labels[2] = "once", "twice", "twice"
    found = suspects(texts, labels, [0, 1, 1, *range(3, 90)], seed=0)
    assert found.judged == 87
    assert not {suspect.position for suspect in found.ranked} & {0, 1, 2}


def test_two_labels_two_groups_and_texts_of_marks_alone() -> None:
    found = suspects(["...", "!!!", "...", "!!!"], ["a", "b", "a", "b"], ["x", "x", 1, 1], seed=0)
    assert found.judged == 4
    assert found.ranked == []


def test_a_sample_is_judged_and_its_positions_are_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = letters(300)
    given, flips = flipped(labels, 0.1)
    monkeypatch.setattr(module, "MAX_ROWS", 150)
    found = suspects(texts, given, range(300), seed=0)
    assert found.judged == 150
    assert max(suspect.position for suspect in found.ranked) > 150
    assert len({suspect.position for suspect in found.ranked[:10]} & flips) >= 8


@pytest.mark.skipif(not QUERIES.is_file(), reason="needs ../shared/data/clinc150")
def test_flips_among_real_queries_are_found() -> None:
    rows = json.loads(QUERIES.read_text(encoding="utf-8"))["train"]
    names = sorted({label for _, label in rows})[:30]
    texts, labels = zip(*[row for row in rows if row[1] in names], strict=True)
    given, flips = flipped(list(labels), 0.05)
    ranked = [suspect.position for suspect in suspects(texts, given, range(len(texts)), seed=0).ranked]
    assert len(texts) == 3000
    assert len(set(ranked[:150]) & flips) / 150 > 0.85
    assert len(set(ranked) & flips) / 150 > 0.85
