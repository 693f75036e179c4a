"""Runs of words as 64-bit numbers, for many texts at once: what duplicates and n-gram coverage are counted in."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from data_prep.normalise import folded
from data_prep.spill import Numbers

FACTOR = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(int(FACTOR), -1, 2**64))
MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's
PIECE_CHARS = 2**18
"""Characters worked on at once: their arrays stay in a processor's cache."""

Indices = NDArray[np.int64]


def shingles(texts: Sequence[str], words: int) -> tuple[Numbers, Indices]:
    """The distinct runs of `words` words of each text, sorted within it, and where each text's runs end.

    A shorter text is one run. Two different runs get the same number with probability 2^-64.
    """
    codes, ends = word_codes(texts)
    return distinct(*runs(codes, ends, words))


def word_codes(texts: Sequence[str]) -> tuple[Numbers, Indices]:
    """The words of all texts, case folded, as numbers one after the other, and where each text's words end.

    A word is what the regular expression `\\w+` finds; the same word has the same number in every process and
    on every day. A text without a word counts as one word: itself.
    """
    codes = [np.empty(0, dtype=np.uint64)]
    counts = np.zeros(len(texts), dtype=np.int64)
    for first, pieces in _pieces(texts):
        found, ends = _piece_codes(pieces)
        codes.append(found)
        counts[first : first + len(pieces)] += np.diff(ends, prepend=0)
    together, ends = np.concatenate(codes), np.cumsum(counts)
    wordless = np.flatnonzero(counts == 0).tolist()
    if wordless:
        wholes = [
            hashlib.blake2b(folded(texts[index]).encode(), digest_size=8).digest() for index in wordless
        ]
        together = np.insert(together, ends[wordless], np.frombuffer(b"".join(wholes), dtype=np.uint64))
        ends = np.cumsum(np.maximum(counts, 1))
    return together, ends


def _pieces(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The folded texts in lists of at most `PIECE_CHARS` characters, each with the number of its first text.

    A longer text is cut at white space, and its pieces come one by one.
    """
    first, piece, room = 0, list[str](), PIECE_CHARS
    for index, text in enumerate(texts):
        left = text.casefold()
        if len(left) >= room and piece:
            yield first, piece
            first, piece, room = index, [], PIECE_CHARS
        while len(left) >= PIECE_CHARS:
            cut = left.rfind(" ", 0, PIECE_CHARS) + 1 or PIECE_CHARS - 1
            yield index, [left[:cut]]
            left = left[cut:]
        piece.append(left)
        room -= len(left) + 1
    if piece:
        yield first, piece


def _piece_codes(texts: Sequence[str]) -> tuple[Numbers, Indices]:
    """The words' numbers: a polynomial in the characters, moved to the word's start by the inverse powers."""
    is_word, code_of, power, inverse = _tables()
    joined = "\n".join([*texts, ""])
    letters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    inside = is_word[letters]
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    edges = np.concatenate(([0], edges)) if inside[:1].any() else edges
    starts, stops = edges[::2], edges[1::2]
    values = code_of[letters] * power[: len(letters)]
    values[~inside] = 0
    sums = np.add.reduceat(values, starts) if len(starts) else values[:0]
    ends = np.searchsorted(starts, np.fromiter(accumulate(len(text) + 1 for text in texts), dtype=np.int64))
    return _mixed(sums * inverse[starts] + (stops - starts).astype(np.uint64)), ends


@cache
def _tables() -> tuple[NDArray[np.bool_], Numbers, Numbers, Numbers]:
    """For every character whether it is part of a word and its number; powers of FACTOR and of its inverse."""
    characters = range(0x110000)
    is_word = np.fromiter((chr(code).isalnum() for code in characters), dtype=np.bool_, count=len(characters))
    is_word[ord("_")] = True
    numbers = _mixed(np.arange(1, len(characters) + 1, dtype=np.uint64) * FACTOR)
    return is_word, numbers, _powers(FACTOR), _powers(INVERSE)


def _powers(base: np.uint64) -> Numbers:
    powers = np.full(PIECE_CHARS + 1, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mixed(number: Numbers) -> Numbers:
    """Every bit depends on all of them."""
    for shift, mixer in zip((30, 27), MIXERS, strict=True):
        number = (number ^ (number >> np.uint64(shift))) * mixer
    return number ^ (number >> np.uint64(31))


def runs(codes: Numbers, ends: Indices, words: int) -> tuple[Numbers, Indices]:
    """A number for each run of `words` words, in order and with repetitions, and where each text's runs end."""
    lengths = np.diff(ends, prepend=0)
    counts = np.maximum(lengths - words + 1, 1)
    numbers = np.empty(int(counts.sum()), dtype=np.uint64)
    run_ends = np.cumsum(counts)
    long = lengths >= words
    if long.any():
        whole = _rolled(codes, words)
        starts = np.repeat(ends - lengths, lengths)[: len(whole)]
        position = np.arange(len(whole))
        inside = (position + words <= np.repeat(ends, lengths)[: len(whole)]) & (position >= starts)
        numbers[np.repeat(long, counts)] = whole[inside]
    for index in np.flatnonzero(~long).tolist():
        start, end = int(ends[index] - lengths[index]), int(ends[index])
        numbers[run_ends[index] - 1] = _rolled(codes[start:end], end - start)[0]
    return numbers, run_ends


def _rolled(codes: Numbers, words: int) -> Numbers:
    """A polynomial hash of every `words` neighbours, mixed so that every bit depends on all of them."""
    count = max(0, len(codes) - words + 1)
    number = np.zeros(count, dtype=np.uint64)
    for offset in range(words):
        number = number * FACTOR + codes[offset : offset + count]
    return _mixed(number)


def distinct(numbers: Numbers, ends: Indices) -> tuple[Numbers, Indices]:
    """Each text's numbers sorted and without repetitions, and where they end now. Sorts in place."""
    start = 0
    for end in ends.tolist():
        numbers[start:end].sort()
        start = end
    first = np.ones(len(numbers), dtype=bool)
    first[1:] = numbers[1:] != numbers[:-1]
    first[np.concatenate(([0], ends[:-1])).astype(np.int64)] = True
    kept = np.cumsum(first)
    return numbers[first], kept[ends - 1]


def coverage_run(words: int, longest: int, share: float = 0.8) -> int:
    """How many words a run has for n-gram coverage of a text of so many words (eval_data B5)."""
    return max(1, min(longest, math.ceil(share * words)))
