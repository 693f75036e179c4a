"""The one form of every text, and the map back to where each character stood."""

import random
import time

import pytest

from data_prep.normalise import normalise, normalised

POOLS = (
    "abc  \n\r\t\x00\x0c\x1c\x85\u2028\u200b\ufeff\xa0",
    "éàÂÃ€™“â€œ\x80\x93\x9d\xa0 Å¡",
    "e\u0301\u0308A\u030a\u212bK\u212a\u037e가\u1100\u1161\u11a8한",
    "".join(map(chr, range(0x20, 0x250))),
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a \t b \r\n\r\n\r\n\r\nc\x00d \n", "a b\n\nc d"),
        ("cafe\u0301", "café"),
        ("a\u2028b\rc", "a\nb\nc"),
        ("Itâ€™s the â€œSellerâ€\x9d, SÃ£o Paulo", "It’s the “Seller”, São Paulo"),
        ("voilÃ\xa0 le dÃ©lai", "voilà le délai"),
        ("don\x92t", "don’t"),
        ("“§ 2²” ½ ﬁnal ＡＢ &amp; café, 10³ €", "“§ 2²” ½ ﬁnal ＡＢ &amp; café, 10³ €"),
    ],
)
def test_a_text_has_one_form(raw: str, expected: str) -> None:
    assert normalise(raw) == expected
    assert normalise(expected) == expected


def test_the_map_leads_back_to_the_raw_text() -> None:
    raw = "\n  The  Sellerâ€™s\r\n  cafe\u0301  price.  "
    page = normalised(raw)
    assert page.text == "The Seller’s\ncafé price."
    for words, before in (("The", (3, 6)), ("Seller", (8, 14)), ("café", (22, 27)), ("price.", (29, 35))):
        start = page.text.index(words)
        assert (page.to_raw(start), page.to_raw(start + len(words))) == before
        assert (page.from_raw(before[0]), page.from_raw(before[1])) == (start, start + len(words))
    assert (page.from_raw(0), page.from_raw(len(raw))) == (0, len(page.text))


def some_text(chance: random.Random) -> str:
    pool = chance.choice([*POOLS, None])
    letters = (
        chr(chance.randrange(0x20, 0x11000))
        if pool is None
        else chance.choice(chance.choice((pool, POOLS[0])))
        for _ in range(chance.randrange(40))
    )
    text = "".join(letters)
    if chance.random() < 0.2:
        return text.encode("utf-8", "replace").decode(chance.choice(("latin-1", "cp437")))
    return text


def test_normalising_twice_changes_nothing_and_the_map_keeps_the_order() -> None:
    chance = random.Random(3)  # noqa: S311
    copied = 0
    for _ in range(3000):
        raw = some_text(chance)
        page = normalised(raw)
        assert normalise(page.text) == page.text == normalise(raw)
        back = [page.to_raw(position) for position in range(len(page.text) + 1)]
        forth = [page.from_raw(position) for position in range(len(raw) + 1)]
        assert back == sorted(back)
        assert forth == sorted(forth)
        assert 0 <= back[0] <= back[-1] <= len(raw)
        assert 0 <= forth[0] <= forth[-1] <= len(page.text)
        plain = [at for at, letter in enumerate(page.text) if letter.isascii() and letter.isalnum()]
        copied += sum(raw[back[at]] == page.text[at] and forth[back[at]] == at for at in plain)
    assert copied > 7_000


def test_plain_rows_are_normalised_in_microseconds_and_no_map_is_made() -> None:
    text = " ".join(f"word{number}" for number in range(150))
    started = time.perf_counter()
    for _ in range(1000):
        page = normalised(text)
    # 10 microseconds each on an idle machine
    assert time.perf_counter() - started < 0.2
    assert vars(page) == {"raw": text, "text": text}
