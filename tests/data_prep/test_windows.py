"""Windows: nothing is lost between them, and they are cut where the text pauses."""

import random

import pytest

from data_prep.windows import recoverable, windows
from finetune.config.data import WindowConfig
from finetune.errors import ConfigError
from finetune.rows import merged

SMALL = WindowConfig(max_chars=100, overlap_chars=30)


def test_a_short_text_is_one_window() -> None:
    assert windows("a" * 100, SMALL) == [(0, 100)]
    assert windows("", SMALL) == [(0, 0)]


@pytest.mark.parametrize(
    ("pause", "after"),
    [
        ("\n\n", ""),
        ("\n", "1.2 Term"),
        ("\n", "ARTICLE IV"),
        ("\n", "Section 3."),
        ("\n", "x"),
        (". ", ""),
        (" ", ""),
    ],
)
def test_a_window_ends_at_the_best_pause_near_its_end(pause: str, after: str) -> None:
    text = "a" * 85 + pause + after + "b" * 60
    assert windows(text, SMALL)[0] == (0, 85 + len(pause))


def test_a_section_is_a_better_place_than_a_line_and_a_line_than_a_sentence() -> None:
    text = "a" * 80 + "\n2. The Fee" + "\nb. c. d " + "e" * 80
    assert text[windows(text, SMALL)[1][0] :].startswith("a" * 9)
    assert windows(text, SMALL)[0][1] == text.index("2. The Fee")
    text = "a" * 80 + "\nb. c. d " + "e" * 80
    assert windows(text, SMALL)[0][1] == 81


def test_a_passage_as_long_as_the_overlap_stands_whole_in_a_window() -> None:
    chance = random.Random(0)  # noqa: S311
    for size in (101, 150, 500, 1234):
        text = "".join(chance.choices("ab.\n ", weights=(30, 30, 1, 1, 6), k=size))
        found = windows(text, SMALL)
        assert found[0][0] == 0
        assert found[-1][1] == size
        assert all(end - start <= 100 for start, end in found)
        assert all(one[0] < two[0] <= one[1] for one, two in zip(found, found[1:], strict=False))
        spans = [(start, start + 30) for start in range(size - 29)]
        assert recoverable(spans, found) == (spans, [])


def test_what_every_window_cuts_is_counted() -> None:
    assert recoverable([(0, 9), (5, 15), (12, 20), (5, 15)], [(0, 10), (8, 20)]) == (
        [(0, 9), (12, 20)],
        [(5, 15), (5, 15)],
    )


def test_answers_of_windows_become_passages_of_the_document() -> None:
    answers = {(0, 100): [(10, 20), (80, 95)], (70, 170): [(10, 25), (60, 65)], (150, 200): []}
    assert merged(answers) == [(10, 20), (80, 95), (130, 135)]
    assert merged({(0, 10): [(5, 10)], (10, 20): [(0, 3)]}) == [(5, 13)]


def test_an_overlap_that_leaves_nothing_to_add_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"overlap_chars=99 leaves too little of data.windows.max_chars=100"
    ):
        windows("a" * 200, WindowConfig(max_chars=100, overlap_chars=99))
