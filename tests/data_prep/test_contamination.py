import json
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import contamination, ngrams
from data_prep.contamination import Hit, References, held_out_coverage, load_references
from finetune.config.data import ContaminationConfig
from finetune.errors import DataError

SETTINGS = ContaminationConfig()
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CONTRACTS = SHARED / "cuad" / "full_contract_txt"
GENERAL = SHARED / "general"

Save = Callable[..., References]


@pytest.fixture
def references(tmp_path: Path) -> Save:
    """References made of the given rows (.jsonl) or text (.txt)."""

    def make(content: Sequence[dict[str, Any]] | str, name: str = "held.jsonl") -> References:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_references([name], tmp_path, SETTINGS)

    return make


def words(name: str, count: int) -> str:
    """So many words that no other name has."""
    return " ".join(f"{name}{number}" for number in range(count))


def drawn(letters: str, count: int) -> list[str]:
    """Texts of 4 to 40 words of one letter: full of repeated runs."""
    draw = np.random.default_rng(5)
    return [" ".join(draw.choice(list(letters), draw.integers(4, 41))) for _ in range(count)]


def test_a_copy_is_covered_wholly_and_a_part_by_its_share(references: Save) -> None:
    found = references([{"text": "the tenant pays the rent on the first day"}])  # 9 words: 2 runs of 8
    texts = [
        "We say: The TENANT pays the rent, on the first day!",
        "the tenant pays the rent on the first of",
    ]
    assert found.covered([*texts, "the tenant pays rent"]) == [
        Hit("held.jsonl", 1, 1.0),
        Hit("held.jsonl", 1, 0.5),
        None,
    ]


def test_the_item_of_which_most_is_repeated_is_named(references: Save) -> None:
    found = references([{"text": words("a", 20)}, {"text": words("b", 20)}, {"text": words("b", 20)}])
    [hit] = found.covered([words("a", 15) + " " + words("b", 16)])
    assert hit == Hit("held.jsonl", 2, 0.5)  # 4 of 8 runs of 13; of a 3 of 8; the first of equal items


def test_runs_do_not_cross_from_one_text_into_the_next(references: Save) -> None:
    found = references([{"text": words("a", 10)}])
    halves = [words("a", 5), " ".join(f"a{number}" for number in range(5, 10))]
    assert found.covered(halves) == [None, None]


def test_items_of_three_words_are_counted_and_never_hit(references: Save) -> None:
    found = references([{"text": "yes of course"}, {"text": "that is my answer"}])
    assert found.unjudged == 1
    assert found.covered(["yes of course", "that is my answer"]) == [None, Hit("held.jsonl", 2, 1.0)]


def test_a_question_is_found_without_its_answer_and_shared_instructions_are_not(references: Save) -> None:
    rule = words("rule", 20)
    rows = [
        {"id": "x1", "ask": {"rule": rule, "parts": [words(f"q{row}", 20)]}, "answer": words(f"a{row}", 60)}
        for row in range(3)
    ]
    found = references(rows)
    question, instruction = found.covered([words("q1", 20), rule])
    assert question == Hit("held.jsonl", 2, 1.0)
    assert instruction is not None
    assert instruction.coverage == pytest.approx(8 / 88)  # of all 100 words, not of a field by itself


def test_ids_keys_and_categories_do_not_thin_out_an_item(references: Save) -> None:
    found = references([{"id": "r-1", "subject": "law", "text": words("a", 10), "labels": ["x:y", "z"]}])
    assert found.covered([words("a", 10)]) == [Hit("held.jsonl", 1, 1.0)]


def test_our_own_test_rows_count_by_their_text_without_the_prompt(references: Save) -> None:
    def row(number: int) -> dict[str, Any]:
        prompt = f"{words('before', 30)}: {words(f't{number}x', 10)}\n{words('after', 30)}"
        turns = [{"role": "system", "content": words("system", 9)}, {"role": "user", "content": prompt}]
        return {
            "id": f"{number}",
            "messages": turns,
            "target": "rent",
            "sources": [{"sha256": "ab", "start": 0}],
        }

    found = references([row(number) for number in range(5)])
    assert found.covered([words("t3x", 10), words("system", 9), words("before", 30)]) == [
        Hit("held.jsonl", 4, 1.0),
        None,
        None,
    ]


def test_a_text_file_is_one_item(references: Save) -> None:
    found = references(words("a", 30) + "\n\n" + words("b", 30), "paper.txt")
    assert found.covered([words("b", 30)]) == [Hit("paper.txt", 1, 18 / 48)]


def test_references_travel_to_another_process(references: Save) -> None:
    found = references([{"text": words("a", 20)}])
    assert pickle.loads(pickle.dumps(found)).covered([words("a", 20)]) == [Hit("held.jsonl", 1, 1.0)]  # noqa: S301


def test_without_references_nothing_is_a_hit(tmp_path: Path) -> None:
    assert load_references([], tmp_path, SETTINGS).covered(["any text of five words"]) == [None]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gone.jsonl", None, "gone.jsonl: no such file"),
        ("held.pdf", b"x", "held.pdf: data.contamination.references takes .jsonl and .txt"),
        ("held.jsonl", b'{"a": "b c"}\n{"secret', "held.jsonl:2: broken JSON"),
        ("held.txt", b"secret\x00\x01", "held.txt: binary"),
    ],
)
def test_an_unusable_file_is_named_and_not_quoted(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as error:
        load_references([name], tmp_path, SETTINGS)
    assert "secret" not in str(error.value)


def coverage(held_out: Sequence[str], train: Sequence[str], **settings: Any) -> list[float]:
    found = held_out_coverage([held_out], lambda: [train], ContaminationConfig(**settings))
    return [round(float(share), 4) for share in found]


def test_coverage_counts_runs_found_in_different_texts() -> None:
    held = [words("a", 20), words("b", 20), words("a", 13) + " " + words("c", 7)]
    train = [words("a", 14), " ".join(f"a{number}" for number in range(5, 20)), words("d", 50)]
    assert coverage(held, train) == [5 / 8, 0.0, 1 / 8]


def test_short_texts_have_shorter_runs_and_three_words_are_not_judged() -> None:
    shares = coverage(["pay the rent on friday please", "pay the rent"], ["i pay the rent on friday", "x"])
    assert shares[0] == 0.5
    assert np.isnan(shares[1])


def test_boilerplate_counts_neither_as_found_nor_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "FEWEST_BOILERPLATE", 1)
    boilerplate = words("law", 16)  # 4 runs of 13
    held = [boilerplate + " " + words("own", 20), boilerplate + " " + words("new", 20)]
    train = [boilerplate, boilerplate + " " + words("own", 20), *(words(f"t{row}x", 20) for row in range(18))]
    assert coverage(held, train) == [1.0, 0.0]
    assert coverage(held, train, boilerplate_fraction=1.0) == [1.0, round(4 / 24, 4)]


def test_a_text_nearly_all_boilerplate_is_not_judged_by_the_rest_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contamination, "FEWEST_BOILERPLATE", 1)
    boilerplate = words("law", 50)  # 38 runs
    held = boilerplate + " end one"  # 2 runs more
    train = [boilerplate] * 4 + [held] + [words(f"t{row}x", 20) for row in range(35)]
    assert coverage([held], train) == [2 / 20]


def test_what_stands_in_ten_texts_is_no_boilerplate_yet() -> None:
    text, others = words("a", 20), [words(f"t{row}x", 20) for row in range(50)]
    assert coverage([text], [text]) == [1.0]
    assert coverage([text], [text] * 10 + others) == [1.0]
    assert coverage([text], [text] * 11 + others) == [0.0]


def test_more_held_out_text_than_fits_takes_more_passes_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = drawn("abcdefg", 90)
    passes = 0

    def train() -> Iterator[Sequence[str]]:
        nonlocal passes
        passes += 1
        yield from (texts[40:70], texts[70:])

    whole = held_out_coverage([texts[:40]], train, SETTINGS)
    assert passes == 1
    monkeypatch.setattr(contamination, "MOST_NGRAMS", 50)
    monkeypatch.setattr(ngrams, "PORTION_CHARS", 200)
    np.testing.assert_array_equal(held_out_coverage([texts[:13], texts[13:40]], train, SETTINGS), whole)
    assert passes > 4


def test_coverage_equals_a_count_over_sets_of_word_tuples(references: Save) -> None:
    texts = drawn("abc", 60)
    held, train = texts[:30], texts[30:]

    def runs(text: str, n: int) -> set[tuple[str, ...]]:
        parts = text.split()
        return {tuple(parts[start : start + n]) for start in range(len(parts) - n + 1)}

    expected = []
    for text in held:
        n = min(13, ceil(0.8 * len(text.split())))
        everywhere = set().union(*(runs(other, n) for other in train))
        expected.append(len(runs(text, n) & everywhere) / len(runs(text, n)))
    assert coverage(held, train, boilerplate_fraction=1.0) == [round(share, 4) for share in expected]
    best = references([{"text": text} for text in train]).covered(held)
    for text, hit in zip(held, best, strict=True):
        shares = []
        for other in train:
            n = min(13, ceil(0.8 * len(other.split())))
            shares.append(len(runs(other, n) & runs(text, n)) / len(runs(other, n)))
        assert (hit.coverage if hit else 0.0) == max(shares)


@pytest.mark.skipif(not CONTRACTS.is_dir(), reason="needs ../shared/data/cuad")
def test_coverage_tells_refiled_contracts_from_boilerplate() -> None:
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(CONTRACTS.glob("*.txt"))]
    texts = [texts[place] for place in np.random.default_rng(1).permutation(len(texts))]
    train, held = texts[83:], texts[:83]
    refiled = words("cover", 100) + re.sub(r"\b(19|20)\d\d\b", "2031", train[0])
    shares = held_out_coverage([[*held, refiled]], lambda: [train], SETTINGS)
    assert len(texts) == 416
    assert np.median(shares[:83]) < 0.05
    assert np.mean(shares[:83] >= 0.5) < 0.07
    assert shares[83] > 0.9


@pytest.mark.skipif(not GENERAL.is_dir(), reason="needs ../shared/data/general")
def test_public_benchmarks_are_read_and_their_questions_found() -> None:
    names = ["gsm8k_200.jsonl", "mmlu_570.jsonl", "ifeval_540.jsonl", "bbh_270.jsonl"]
    found = load_references(names, GENERAL, SETTINGS)
    rows = [json.loads(line) for line in (GENERAL / names[0]).read_text(encoding="utf-8").splitlines()]
    hits = found.covered([f"Solve this. {row['question']} Thanks." for row in rows])
    assert hits == [Hit(names[0], number, 1.0) for number in range(1, 201)]
    assert len(set(found.places)) == 1580
    assert found.unjudged == 2
