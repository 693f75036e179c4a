"""Texts in a table that strangers open in a spreadsheet: nothing in them is run, and what was edited shows."""

import re

from finetune.artifacts.hashing import sha256_text
from finetune.console import shortened, visible

CELL_CHARACTERS = 30_000
"""A spreadsheet cell holds 32,767 characters (Excel specifications and limits); some stay for the apostrophes."""
FORMULA = re.compile(r"(^|[;\n])([ \"']*)(?=[=+\-@\uff0b\uff0d\uff1d\uff20])")
"""Where a spreadsheet could take text for a formula: at a cell's start (OWASP, CSV Injection), and, where its separator
is a semicolon and not ours, after one or after a line's end. Tabs and carriage returns are spelled out by `visible`."""
GUARDED = re.compile(FORMULA.pattern.replace("(?=", "'(?="))
MONTHS = "jan feb mar mrz apr may mai jun jul aug sep oct okt nov dec dez".split()
CONVERTED = re.compile(rf"\s*(\d|({'|'.join(MONTHS)})[a-z]{{0,6}}[ .-]?\d)[^\n]{{0,22}}", re.IGNORECASE)
"""Short texts that a spreadsheet would turn into another number or date, such as 1E10, 3-4 or Mar 1."""
GUARD = "'"


def cell(text: str) -> str:
    """The text as a cell: control characters spelled out, an apostrophe before what would be run or changed."""
    safe = FORMULA.sub(rf"\1\2{GUARD}", shortened(visible(text), CELL_CHARACTERS))
    return f"{GUARD}{safe}" if CONVERTED.fullmatch(safe) else safe


def unguarded(text: str) -> str:
    """A text that an expert wrote, without the apostrophes that the form put in."""
    return GUARDED.sub(r"\1\2", text)


def fits(text: str) -> bool:
    """Whether a cell holds the whole text."""
    return len(visible(text)) <= CELL_CHARACTERS


def fingerprint(*texts: str) -> str:
    """sha256 of a row's texts; apostrophes, case and white space, which spreadsheets change, do not count."""
    return sha256_text("\x1f".join(" ".join(text.replace(GUARD, "").casefold().split()) for text in texts))
