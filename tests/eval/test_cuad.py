"""CUAD's scores, equal to the bit to the official formulas transcribed in official_cuad.py."""

import numpy as np
import pytest
from official_cuad import Gold, NBest
from official_cuad import scores as official

from eval.metrics import cuad

WORDS = "the parties agree that licensee shall pay royalties under this agreement to licensor,inc. and/or Its;".split()


def ours(gold: Gold, nbest: NBest, category: str | None = None) -> tuple[float, float, float]:
    names = [name for name in gold if category is None or category in name]
    questions = [cuad.Question(name, gold[name], dict(nbest[name])) for name in names]
    groups = np.arange(len(names)) % 3
    sums = cuad.counts(questions, groups).sum(axis=0)[None]
    formulas = (cuad.aupr, cuad.precision_at_80_recall, cuad.precision_at_90_recall)
    return tuple(float(formula(sums)[0]) for formula in formulas)  # type: ignore[return-value]


def random_case(seed: int) -> tuple[Gold, NBest]:
    """Contracts with null questions, doubled quotes and passages, quotes near a passage, empty and equal scores."""
    rng = np.random.default_rng(seed)

    def phrase() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9)))

    gold: Gold = {}
    nbest: NBest = {}
    for number in range(int(rng.integers(1, 25))):
        name = f"{rng.choice(['Acme Parties LLC', 'Beta'])}-{number}__{rng.choice(['Parties', 'Cap On Liability'])}"
        passages = [phrase() for _ in range(int(rng.integers(0, 4)))]
        gold[name] = passages + passages[:1] * int(rng.integers(0, 2))
        # in every other case most passages are quoted as they stand
        nbest[name] = [(text, float(rng.random())) for text in passages if seed % 2 and rng.random() < 0.95]
        for _ in range(int(rng.integers(0, 7))):
            near = passages and rng.random() < 0.6
            words = str(rng.choice(passages)).split() if near else phrase().split()
            text = " ".join(
                [*words[: rng.integers(1, len(words) + 1)], *rng.choice(WORDS, rng.integers(0, 3))]
            )
            score = rng.choice([rng.random(), round(rng.random(), 2), rng.random() ** 8, 0.0, 0.5])
            nbest[name].append((str(rng.choice([text, text, text, ""])), float(score)))
        nbest[name] += nbest[name][: int(rng.integers(0, 2))]
    return gold, nbest


@pytest.mark.parametrize("block", range(4))
def test_random_cases_are_equal_to_the_bit(block: int) -> None:
    """200 cases, each whole and by category."""
    for seed in range(50 * block, 50 * block + 50):
        gold, nbest = random_case(seed)
        for category in (None, "Parties", "Cap On Liability"):
            if category is None or any(category in name for name in gold):
                assert ours(gold, nbest, category) == official(gold, nbest, category), (seed, category)


def test_the_random_cases_are_no_trivial_ones() -> None:
    found = np.array([ours(*random_case(seed)) for seed in range(200)])
    assert ((found[:, 0] > 0.05) & (found[:, 0] < 0.95)).sum() > 150
    assert (found[:, 1] > 0).sum() > 50


HAND = {
    "three of four words are shared": (
        {"c__Law": ["governed by the laws"]},
        {"c__Law": [("by the laws", 0.9)]},
    ),
    "a third of the words is too little": ({"c__Law": ["a b"]}, {"c__Law": [("b c", 0.9)]}),
    "marks, case, slashes": (
        {"c__Law": ["State/County; of York."]},
        {"c__Law": [("state county OF york", 0.9)]},
    ),
    "a null question": (
        {"c__Law": [], "d__Law": ["x y"]},
        {"c__Law": [("x", 0.7)], "d__Law": [("x y", 0.6)]},
    ),
    "only null questions": ({"c__Law": []}, {"c__Law": [("x", 0.7)]}),
    "no quotes": ({"c__Law": ["x"]}, {"c__Law": []}),
    "the last confidence of equal quotes": ({"c__Law": ["x y"]}, {"c__Law": [("x y", 0.9), ("x y", 0.0)]}),
    "parties by inclusion": (
        {"c__Parties": ["Acme"]},
        {"c__Parties": [("by and between Acme and others", 0.9)]},
    ),
    "inclusion elsewhere is none": (
        {"c__Law": ["Acme"]},
        {"c__Law": [("by and between Acme and others", 0.9)]},
    ),
    "found at the lowest threshold only": ({"c__Law": ["x y"]}, {"c__Law": [("x y", 0.0005)]}),
    "parties in a longer name": (
        {"c__Third Parties": ["Acme"]},
        {"c__Third Parties": [("z Acme q", 0.9)]},
    ),
}


@pytest.mark.parametrize(("gold", "nbest"), HAND.values(), ids=HAND)
def test_hand_made_cases_are_equal_to_the_bit(gold: Gold, nbest: NBest) -> None:
    assert ours(gold, nbest) == official(gold, nbest)


def test_numbers_known_beforehand() -> None:
    """Of two passages the surer quote finds one and the other is wrong: recall 1/2 at precision 1, then 1/2 at 1/2."""
    gold, nbest = {"c__Law": ["x y", "u v"]}, {"c__Law": [("x y", 0.9), ("m n", 0.5)]}
    assert ours(gold, nbest) == (0.5, 0.0, 0.0)
    assert ours(*HAND["parties by inclusion"]) == (1.0, 1.0, 1.0)
    assert ours(*HAND["inclusion elsewhere is none"]) == (0.0, 0.0, 0.0)
    assert ours(*HAND["only null questions"]) == (0.0, 0.0, 0.0)
    # found, but where precision is looked up the lowest threshold is left out
    assert ours(*HAND["found at the lowest threshold only"]) == (1.0, 0.0, 0.0)


def test_texts_without_words_are_not_alike() -> None:
    """The official script divides by zero there."""
    assert cuad.jaccard(".", ";") == 0.0
