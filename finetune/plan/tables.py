"""What the tables of a plan are made of: sections, and numbers in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Plan = Mapping[str, Any]
"""The content of plan.json: memory in GiB, time in seconds and hours, null for what is not known."""
Row = tuple[str, ...]

SMALLEST_GIB = 0.01


@dataclass(frozen=True)
class Section:
    """A table: how its numbers were found, `<` or `>` for each column, and rows that close it."""

    title: str
    source: str
    align: str
    rows: Sequence[Row]
    head: Row = ()
    foot: Sequence[Row] = ()


def filled(section: Section) -> Section:
    """The same table without columns in which no row says anything."""
    kept = [place for place in range(len(section.head)) if any(row[place] for row in section.rows)]
    rows = [tuple(row[place] for place in kept) for row in section.rows]
    align = "".join(section.align[place] for place in kept)
    return replace(section, align=align, rows=rows, head=tuple(section.head[place] for place in kept))


def gib(value: float) -> str:
    """Two decimals; what is there but rounds to nothing is said to be there."""
    return f"{value:,.2f}" if value >= SMALLEST_GIB or not value else f"< {SMALLEST_GIB}"


def short(value: float) -> str:
    """Three digits or so, for a sentence."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def unit(say: Callable[[Any], str], value: Any, word: str) -> str:
    """A number with its unit; empty where there is none."""
    return "" if value is None else f"{say(value)} {word}".strip()
