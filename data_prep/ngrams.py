"""The n-grams of many texts as numbers, n by a text's own length, and a quick sieve for those that are sought."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.shingles import FACTOR, Indices, coverage_run, distinct, runs, word_codes
from data_prep.spill import Numbers

LEAST_WORDS = 4
"""Up to three words stand in any text by chance: shorter texts are not judged."""
PORTION_CHARS = 200_000
"""Arrays of this many characters' words stay in a processor's cache."""
FEWEST_SIEVE_BITS, MOST_SIEVE_BITS = 10, 29

Sieve = NDArray[np.uint8]


@dataclass(frozen=True)
class OwnNgrams:
    """The distinct n-grams of each of some texts, n by its own length: how many, one text after the other."""

    lengths: Indices
    """Words an n-gram of the text; 0 where it is too short to be judged."""
    sizes: Indices
    numbers: Numbers


def own_ngrams(texts: Sequence[str], ngram_words: int) -> OwnNgrams:
    """The n-grams by which each text is recognised, n at least LEAST_WORDS and at most `ngram_words`."""
    codes, ends = word_codes(texts)
    words = np.diff(ends, prepend=0)
    judged = words >= LEAST_WORDS
    longest = max(ngram_words, LEAST_WORDS)
    lengths = np.array([coverage_run(count, longest) for count in words.tolist()]) * judged
    counts = (words - lengths + 1) * judged
    starts = np.arange(counts.sum()) + np.repeat(ends - words - np.cumsum(counts) + counts, counts)
    length_of, short = np.repeat(lengths, counts), _short_runs(codes)
    numbers = np.empty(len(starts), dtype=np.uint64)
    for length in np.unique(length_of).tolist():
        chosen = length_of == length
        numbers[chosen] = _ngrams(short, starts[chosen], length)
    sizes = np.zeros(len(texts), dtype=np.int64)
    if judged.any():
        numbers, number_ends = distinct(numbers, np.cumsum(counts[judged]))
        sizes[judged] = np.diff(number_ends, prepend=0)
    return OwnNgrams(lengths, sizes, numbers)


def begins(texts: Sequence[str]) -> Numbers:
    """The first LEAST_WORDS words of every n-gram of the texts, in any length, as numbers."""
    return _short_runs(word_codes(texts)[0])


def _short_runs(codes: Numbers) -> Numbers:
    """The runs of LEAST_WORDS words, as if all texts were one: what longer runs are put together from."""
    return runs(codes, np.array([len(codes)]), LEAST_WORDS)[0]


def _ngrams(short: Numbers, starts: Indices, length: int) -> Numbers:
    """The numbers of the runs of `length` words from `starts` on, at a third of the work of rolling over them."""
    number = short[starts]
    last = length - LEAST_WORDS
    for offset in (*range(LEAST_WORDS, last, LEAST_WORDS), last):
        number = number * FACTOR + short[starts + offset]
    return number + np.uint64(length)


def passing(
    texts: Sequence[str], lengths: Sequence[int], sieve: Sieve, beginnings: Sieve | None = None
) -> tuple[Numbers, Indices]:
    """The n-grams of the texts that the sieves let through, sorted, with each one's text, once for a text."""
    codes, ends = word_codes(texts)
    short = _short_runs(codes)
    start = np.arange(len(short)) if beginnings is None else np.flatnonzero(_admits(beginnings, short))
    row = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))[start]
    room = ends[row] - start
    numbers, rows = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for length in lengths:
        fits = np.flatnonzero(room >= length)
        found = _ngrams(short, start[fits], length)
        inside = _admits(sieve, found)
        numbers.append(found[inside])
        rows.append(row[fits[inside]])
    number, row = np.concatenate(numbers), np.concatenate(rows)
    order = np.lexsort((row, number))
    number, row = number[order], row[order]
    new = np.ones(len(number), dtype=bool)
    new[1:] = (number[1:] != number[:-1]) | (row[1:] != row[:-1])
    return number[new], row[new]


def make_sieve(parts: Sequence[Numbers]) -> Sieve:
    """A bit for every range of numbers, set where a part holds one: most other numbers stop here.

    The parts share the range of all numbers out evenly and in order."""
    bits = (16 * sum(map(len, parts))).bit_length()
    bits = max(FEWEST_SIEVE_BITS, min(MOST_SIEVE_BITS, bits))
    width = 2**bits // len(parts)
    sieve = np.empty(2**bits // 8, dtype=np.uint8)
    for index, part in enumerate(parts):
        there = np.zeros(width, dtype=bool)
        there[(part >> np.uint64(64 - bits)).astype(np.int64) - index * width] = True
        sieve[index * width // 8 : (index + 1) * width // 8] = np.packbits(there, bitorder="little")
    return sieve


def _admits(sieve: Sieve, numbers: Numbers) -> NDArray[np.bool_]:
    place = (numbers >> np.uint64(65 - (8 * len(sieve)).bit_length())).astype(np.int64)
    bit = np.left_shift(np.uint8(1), (place & 7).astype(np.uint8))
    admitted: NDArray[np.bool_] = (sieve[place >> 3] & bit) != 0
    return admitted


def portions(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of about PORTION_CHARS characters, so that their n-grams fit in memory."""
    portion: list[str] = []
    size = 0
    for text in texts:
        portion.append(text)
        size += len(text)
        if size >= PORTION_CHARS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
