"""Where marked passages stand in the normalised text: at their position, word for word, or nearly so and verified."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from unicodedata import normalize

from data_prep.normalise import Normalised, normalise
from data_prep.rows import Span

Interval = tuple[int, int]

PAST_THE_END = "span past the end"
DIFFERS = "span text differs from its source"
EMPTY = "empty quote"
NOT_FOUND = "quote not found in its source"

OMITTED = re.compile(r"\s*<\s*omitted\s*>\s*", re.IGNORECASE)
"""CUAD's mark for what the annotator left out between two parts of a passage."""
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[%$€£]")
"""What must agree where punctuation and white space may not: `1.5` is not `15`."""
TELLING_LETTERS = 20
"""From so many letters on a passage may begin or end within a word."""
MATCHED = 0.9
"""Share of the quote's words that must stand in the text, in order."""
RUN = 3
"""Words in a row by which a quote's place is guessed before it is verified."""
FURNITURE = 40
"""Words that a page break may put into a passage: footer, page number, header."""
MANY_WORDS = 1000
"""From here on difflib may pass over the most frequent words, or it takes minutes."""


@dataclass(frozen=True, slots=True)
class Located:
    """A marked passage, or a part of one, by its range in the normalised text."""

    label: str
    start: int
    end: int
    span: int
    """Number of the span in its document."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A marked passage that no row can show, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Missing:
    """A span that was not found, and why."""

    span: Span
    reason: str


def locate(spans: Sequence[Span], normalised: Normalised) -> tuple[list[Located], list[Missing]]:
    """The ranges of the spans that were found, in order, and the spans that were not.

    A span with a position must stand there letter for letter. Of a quote that occurs several times the
    first place counts that its label has not taken yet.
    """
    page = _Page(normalised.text)
    taken: set[tuple[str, Interval]] = set()
    found: list[Located] = []
    missing: list[Missing] = []
    for number, span in enumerate(spans):
        parts = _marked(span, normalised) if span.start is not None else _quoted(span, page, taken)
        if isinstance(parts, str):
            missing.append(Missing(span, parts))
            continue
        taken |= {(span.label, part) for part in parts}
        found += [Located(span.label, start, end, number) for start, end in parts]
    return found, missing


def _marked(span: Span, normalised: Normalised) -> list[Interval] | str:
    """Where a span with a position stands, or why it does not."""
    if not normalise(span.quote):
        return EMPTY
    start, raw = span.start or 0, normalised.raw
    end = start + len(span.quote)
    if start < 0 or end > len(raw):
        return PAST_THE_END
    if raw[start:end] != span.quote:
        return DIFFERS
    # the last letter counts whole, also where it became one with what follows it
    last = max(normalised.from_raw(end), normalised.from_raw(max(start, end - 1)) + 1)
    first, last = normalised.from_raw(start), min(last, len(normalised.text))
    inside = normalised.text[first:last]
    first, last = first + len(inside) - len(inside.lstrip()), last - len(inside) + len(inside.rstrip())
    return [(first, last)] if first < last else EMPTY


def _quoted(span: Span, page: "_Page", taken: set[tuple[str, Interval]]) -> list[Interval] | str:
    """Where the parts of a quote stand, in order as far as the text has them so, or why one does not."""
    parts: list[Interval] = []
    after = 0
    for quote in filter(None, map(normalise, OMITTED.split(span.quote))):
        places = page.places(quote)
        free = [place for place in places if (span.label, place) not in taken and place not in parts]
        here = next((place for place in free if place[0] >= after), None) or next(iter(free or places), None)
        if here is None:
            return NOT_FOUND
        parts.append(here)
        after = here[1]
    return parts or EMPTY


class _Page:
    """A normalised text, and what is made of it once a quote does not stand in it word for word."""

    def __init__(self, text: str) -> None:
        self.text = text

    def places(self, quote: str) -> list[Interval]:
        """Where the quote stands: exactly, else by its letters and digits, else by nearly all of its words."""
        return _preferred(self.text, quote) or self._by_letters(quote) or self._by_words(quote)

    @cached_property
    def words(self) -> list[re.Match[str]]:
        return list(WORD.finditer(self.text))

    @cached_property
    def plain(self) -> list[str]:
        return [_plain(word[0]) for word in self.words]

    @cached_property
    def letters(self) -> tuple[str, dict[int, int], dict[int, int]]:
        """All words in one string, and at which of its positions each word starts and ends."""
        starts, ends, position = {}, {}, 0
        for number, word in enumerate(self.plain):
            starts[position] = number
            position += len(word)
            ends[position] = number
        return "".join(self.plain), starts, ends

    @cached_property
    def runs(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for number, run in enumerate(_runs(self.plain)):
            found.setdefault(run, []).append(number)
        return found

    def _by_letters(self, quote: str) -> list[Interval]:
        """Places whose letters and digits are the quote's: other quotes, dashes, ligatures, hyphens, white space."""
        letters = "".join(_plain(word[0]) for word in WORD.finditer(quote))
        joined, starts, ends = self.letters
        found = []
        for start in _occurrences(joined, letters):
            end = start + len(letters)
            first, last = starts.get(start), ends.get(end)
            if first is not None and last is not None:
                found.append((self.words[first].start(), self.words[last].end()))
            elif len(letters) >= TELLING_LETTERS:
                found.append(self._around(start, end))
        return found

    def _around(self, start: int, end: int) -> Interval:
        """The whole words around a range of letters."""
        _, starts, ends = self.letters
        first = next(at for at in range(start, -1, -1) if at in starts)
        last = next(at for at in range(end, end + 10_000) if at in ends)
        return self.words[starts[first]].start(), self.words[ends[last]].end()

    def _by_words(self, quote: str) -> list[Interval]:
        """The place that holds nearly all words of the quote in order, if one does; page furniture may interrupt."""
        words = [_plain(word[0]) for word in WORD.finditer(quote)]
        more = min(len(words), max(FURNITURE, len(words) // 5))
        shifts = Counter(
            place - number for number, run in enumerate(_runs(words)) for place in self.runs.get(run, [])
        )
        for shift, _ in sorted(shifts.items(), key=lambda item: (-item[1], item[0]))[:3]:
            first = max(0, shift - more)
            blocks = _blocks(words, self.plain[first : shift + len(words) + more])
            matched = sum(size for _, _, size in blocks)
            begin, end = blocks[0][1], blocks[-1][1] + blocks[-1][2]
            if matched >= MATCHED * len(words) and end - begin - matched <= more:
                return [(self.words[first + begin].start(), self.words[first + end - 1].end())]
        return []


def _blocks(words: Sequence[str], text: Sequence[str]) -> list[tuple[int, int, int]]:
    """The runs that both have, in order, without a stray word at an end that stands apart from the rest."""
    blocks = [
        tuple(block)
        for block in SequenceMatcher(None, words, text, len(words) > MANY_WORDS).get_matching_blocks()[:-1]
    ]
    while len(blocks) > 1 and _is_stray(blocks[0], blocks[1], blocks[0]):
        blocks = blocks[1:]
    while len(blocks) > 1 and _is_stray(blocks[-2], blocks[-1], blocks[-1]):
        blocks = blocks[:-1]
    return [(first, second, size) for first, second, size in blocks]


def _is_stray(one: Sequence[int], next_one: Sequence[int], judged: Sequence[int]) -> bool:
    gap_in_quote = next_one[0] - one[0] - one[2]
    gap_in_text = next_one[1] - one[1] - one[2]
    return judged[2] < RUN and gap_in_text > gap_in_quote + RUN


def _preferred(text: str, quote: str) -> list[Interval]:
    """Every exact place; those that cut no word first."""
    places = [(start, start + len(quote)) for start in _occurrences(text, quote)]
    if len(places) < 2:
        return places
    bounded = re.compile(rf"(?<!\w){re.escape(quote)}(?!\w)" if quote[0].isalnum() else re.escape(quote))
    return sorted(places, key=lambda place: (not bounded.match(text, place[0]), place))


def _occurrences(text: str, part: str) -> Iterator[int]:
    position = text.find(part) if part else -1
    while position >= 0:
        yield position
        position = text.find(part, position + 1)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[offset:] for offset in range(RUN)), strict=False)


def _plain(word: str) -> str:
    """A word without case, ligatures and widths."""
    return word.lower() if word.isascii() else normalize("NFKC", word).casefold()
