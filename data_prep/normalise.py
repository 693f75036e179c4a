"""One form for every text: mojibake mended, Unicode NFC, plain newlines, no control characters, no runs of white space.

NFC and not NFKC, quotes as they are: in a contract `§ 2²`, `½` and a quoted term mean what they look like.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from os.path import commonprefix

from finetune.errors import MachineError

Edit = tuple[int, int, str]
Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

BLANKS = r"\t\x00-\x08\x0b-\x1f\x7f-\xa0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff"
ASCII_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
SUSPECT = re.compile(r"[^\x00-\x7f]{2}|[\x80-\x9f]|[ÂÃÅÎÐÙ] ")
"""Mojibake stands in pairs, or lost its no-break space; asking ftfy of every accent costs 0.25 ms a thousand."""
WORDS = re.compile(r"([\x21-\x7e]+)")


def normalise(text: str) -> str:
    """The text in its one form. Lines and paragraphs stay: contracts and notices are built of them."""
    if text.isascii() and _is_tidy(text):
        return text.strip()
    tidy = _tidied(text)
    while tidy != text and not tidy.isascii():  # what was mended may show more to mend; each round is shorter
        text, tidy = tidy, _tidied(tidy)
    return tidy


def normalised(raw: str) -> "Normalised":
    """The normalised text that knows where each of its characters stood."""
    return Normalised(raw, normalise(raw))


def folded(text: str) -> str:
    """The form in which texts count as equal: case and all white space aside."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class Normalised:
    """A normalised text and its raw form; the map between them is made when it is first asked for."""

    raw: str
    text: str

    def to_raw(self, position: int) -> int:
        """Where the character at `position` stood in the raw text; for the text's end, where its last one ended."""
        for stretches in reversed(self._steps):
            position = stretches.before(position)
        return position

    def from_raw(self, position: int) -> int:
        """Where a raw position went; inside what was rewritten or cut, where that now begins."""
        for stretches in self._steps:
            position = stretches.after(position)
        return position

    @cached_property
    def _steps(self) -> list["_Stretches"]:
        steps: list[_Stretches] = []
        text = self.raw
        while text != self.text:
            for rule in _rules(text.isascii()):
                edits = list(_edits(rule, text))
                steps.append(_stretches(edits, len(text)))
                text = _applied(edits, text)
            lead = len(text) - len(text.lstrip())
            text = text.strip()
            steps.append(_Stretches([lead], [0], [len(text)]))
        return steps


@dataclass(frozen=True, slots=True)
class _Stretches:
    """What one step copied unchanged: where each stretch began before and after it, and its length."""

    olds: list[int]
    news: list[int]
    lengths: list[int]

    def before(self, position: int) -> int:
        return self._moved(position, self.news, self.olds)

    def after(self, position: int) -> int:
        return self._moved(position, self.olds, self.news)

    def _moved(self, position: int, starts: list[int], others: list[int]) -> int:
        which = max(0, bisect_right(starts, position) - 1)
        return others[which] + min(max(0, position - starts[which]), self.lengths[which])


def _stretches(edits: list[Edit], length: int) -> _Stretches:
    olds, news = [0], [0]
    for start, end, new in edits:
        news.append(news[-1] + start - olds[-1] + len(new))
        olds.append(end)
    ends = [start for start, _, _ in edits] + [length]
    return _Stretches(olds, news, [end - old for old, end in zip(olds, ends, strict=True)])


def _is_tidy(text: str) -> bool:
    """Whether an ASCII text needs no more than its ends stripped: most rows of tables, for a tenth of the time."""
    untidy = ("  ", " \n", "\n ", "\n\n\n")
    return not any(pair in text for pair in untidy) and not ASCII_CONTROL.search(text)


def _tidied(text: str) -> str:
    for pattern, new in _rules(text.isascii()):
        text = pattern.sub(new, text)
    return text.strip()


@cache
def _rules(is_ascii: bool) -> list[Rule]:
    spacing: list[Rule] = [
        (re.compile(r"\r\n?|[\u2028\u2029]"), "\n"),
        (re.compile(rf" [ {BLANKS}]+|[{BLANKS}][ {BLANKS}]*"), " "),
        (re.compile(r" \n ?|\n "), "\n"),
        (re.compile(r"\n{3,}"), "\n\n"),
    ]
    unicode: list[Rule] = [
        (re.compile(r"(?m)^[\x00-\x09\x0b-\x7f]*[^\x00-\x7f][^\n]*"), _mended),
        # below U+0300 every character is in NFC and composes with none before it: the pieces' NFC is the text's
        (re.compile(r"[\x00-\u02ff]?[^\x00-\u02ff]+"), lambda match: unicodedata.normalize("NFC", match[0])),
    ]
    return spacing if is_ascii else unicode + spacing


def _mended(match: re.Match[str]) -> str:
    """The line with what was decoded in the wrong encoding decoded in the right one; mostly: as it was."""
    return _fixer()(match[0]) if SUSPECT.search(match[0]) else match[0]


@cache
def _fixer() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError:
        raise MachineError("the Python package ftfy is not installed; run `make setup`") from None
    # encodings alone: ftfy's other repairs uncurl quotes, unescape HTML and fold ligatures and widths, and a
    # replacement character for what was lost says less than what stands there
    config = ftfy.TextFixerConfig(replace_lossy_sequences=False, explain=False)
    return lambda line: ftfy.fix_encoding(line, config)


def _edits(rule: Rule, text: str) -> Iterator[Edit]:
    """The parts that a rule rewrites, as `(start, end, new)`: what `_tidied` does at once, told piece by piece."""
    pattern, form = rule
    for match in pattern.finditer(text):
        new = form if isinstance(form, str) else form(match)
        if new == match[0]:
            continue
        if isinstance(form, str):
            yield match.start(), match.end(), new
        else:
            yield from _inner_edits(match, new)


def _inner_edits(match: re.Match[str], new: str) -> Iterator[Edit]:
    """What changed between the ASCII words, which stay as they are; the whole where they do not."""
    old = match[0]
    pieces, news = WORDS.split(old), WORDS.split(new)
    if pieces[1::2] != news[1::2]:
        pieces, news = [old], [new]
    position = match.start()
    for piece, other in zip(pieces, news, strict=True):
        if piece != other:
            head = len(commonprefix([piece, other]))
            tail = len(commonprefix([piece[head:][::-1], other[head:][::-1]]))
            yield position + head, position + len(piece) - tail, other[head : len(other) - tail]
        position += len(piece)


def _applied(edits: list[Edit], text: str) -> str:
    parts, position = [], 0
    for start, end, new in edits:
        parts += [text[position:start], new]
        position = end
    return "".join([*parts, text[position:]])
