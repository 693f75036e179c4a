"""What a stranger's spreadsheet opens runs nothing, and what it changes by itself is no edit."""

import csv
import io

import pytest

from eval.experts.cells import CELL_CHARACTERS, cell, fingerprint, fits, unguarded
from eval.experts.drawing import Item
from eval.experts.sheet import table

ATTACKS = ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", " =1", '"=1', "＝1", '=HYPERLINK("http://x";"y")']


@pytest.mark.parametrize("text", ATTACKS)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    item = Item("r", "g", "base", text, text, text)
    [_, record] = csv.reader(io.StringIO(table("0a1b2c3d", [item])))
    for found in record:
        assert found[:1] not in tuple("=+-@\t\r＝＋－＠")
        assert found.lstrip(" \"'")[:1] not in tuple("=+@＝") or "'" in found[:3]


def test_no_formula_begins_where_another_separator_is_read() -> None:
    """A spreadsheet that splits at semicolons sees no quotes after a comma."""
    item = Item("r", "g", "base", "a;=1+1\n- two\n@x", "l", "r")
    whole = table("0a1b2c3d", [item])
    assert "a;'=1+1\n'- two\n'@x" in whole
    for row in csv.reader(io.StringIO(whole), delimiter=";"):
        assert all(found[:1] not in tuple("=+-@") for found in row)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Payment", "Payment"),
        ("a - b = c", "a - b = c"),
        ("E11.9", "E11.9"),
        ("GPL-2.0", "GPL-2.0"),
        ("0012", "'0012"),
        ("1E10", "'1E10"),
        ("3-4", "'3-4"),
        ("Mar 1", "'Mar 1"),
        ("a\x1b[2J\tb", "a\\x1b[2J\\tb"),
        ('["x"]', '["x"]'),
    ],
)
def test_cells_keep_text_and_guard_what_would_become_another_number(text: str, kept: str) -> None:
    assert cell(text) == kept


def test_a_text_longer_than_a_cell_keeps_its_ends() -> None:
    text = "a" * 20_000 + "b" * 20_000
    assert not fits(text)
    assert fits(text[:CELL_CHARACTERS])
    assert cell(text) == f"{'a' * 15_000} […10,000 characters…] {'b' * 15_000}"


def test_a_comment_loses_the_guards_alone() -> None:
    assert unguarded(cell("=a; -b\n+c 'd'")) == "=a; -b\n+c 'd'"


def test_what_a_spreadsheet_changes_is_no_edit() -> None:
    given = fingerprint(cell("- True,\nas is"), cell("0012"), "x")
    assert fingerprint("- TRUE,\r\nas  is ", "'0012", "x") == given
    assert fingerprint("- true, as was", "'0012", "x") != given
    assert fingerprint("- True, as is 0012", "", "x") != given
