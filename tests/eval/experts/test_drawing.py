"""Which rows are drawn, and that the sheet tells nobody which arm is where."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.experts import drawing
from eval.experts.drawing import Drawn, Sides, answer_text, draw, lot, read_sides
from eval.experts.sheet import form, table
from finetune import artifacts
from finetune.artifacts import Spec
from finetune.config.eval import TaskKind
from finetune.config.schema import PathsConfig
from finetune.errors import DataError

KEY = bytes(32)
CLASS = TaskKind.classification


def prompts_of(count: int) -> list[dict[str, Any]]:
    turns = [{"role": "system", "content": "Name it."}]
    return [
        {"id": f"row{index}", "messages": [*turns, {"role": "user", "content": f"text {index}"}]}
        for index in range(count)
    ]


def sides(make: Any, count: int, alike: int) -> Sides:
    """`alike` rows on which both say the same, the rest `x` against `y`."""
    gold = ["g"] * count
    a = make(gold, ["s"] * alike + ["x"] * (count - alike), arm="base")
    b = make(gold, ["s"] * alike + ["y"] * (count - alike))
    return Sides("base", CLASS, a, b)


def test_rows_that_differ_are_drawn_each_as_likely_as_any_other(make: Any) -> None:
    """10 of 40 under 400 keys: each is drawn 100 times, give or take four standard deviations of 8.66."""
    found = sides(make, 60, 20)
    counts = dict.fromkeys((f"row{index}" for index in range(20, 60)), 0)
    for number in range(400):
        drawn = draw(found, prompts_of(60), 10, lot(number.to_bytes(32, "big"), "r"))
        assert (drawn.rows, drawn.differing, len(drawn.items)) == (60, 40, 10)
        for item in drawn.items:
            counts[item.row] += 1
    assert all(abs(count - 100) < 35 for count in counts.values())


def test_an_answer_may_hold_any_letter_that_ends_a_line_elsewhere(make: Any, tmp_path: Path) -> None:
    root = str(tmp_path)
    with artifacts.writing(
        PathsConfig(root, root, root), Spec("report", 1, "toy", {}, {}), move_current=True
    ) as output:
        for arm in ("base", "adapter"):
            output.write_jsonl(f"predictions_{arm}.jsonl", make(["g"], ["two\u2028lines\x85"], arm=arm))
    found = read_sides(output.made(), "base", "label", CLASS)
    assert [row["raw"] for row in (*found.a, *found.b)] == ["two\u2028lines\x85"] * 2


def test_more_rows_go_on_where_fewer_ended(make: Any) -> None:
    found, lots = sides(make, 30, 5), lot(KEY, "r")
    few, many = (draw(found, prompts_of(30), count, lots).items for count in (7, 99))
    assert many[:7] == few
    assert len(many) == 25
    assert draw(found, prompts_of(30), 7, lot(KEY, "another report")).items != few


def test_sides_are_drawn_and_do_not_follow_the_arm_or_the_text(make: Any) -> None:
    lots = lot(KEY, "r")
    drawn = draw(sides(make, 400, 0), prompts_of(400), 400, lots).items
    on_left = [item.left_arm for item in drawn]
    assert 160 < on_left.count("base") < 240  # 200, four standard deviations of 10
    assert all(
        (item.left, item.right) == (("x", "y") if item.left_arm == "base" else ("y", "x")) for item in drawn
    )
    swapped = sides(make, 400, 0)
    again = draw(Sides("base", CLASS, swapped.b, swapped.a), prompts_of(400), 400, lots).items
    assert [item.left_arm for item in again] == on_left  # the texts do not decide
    assert [item.left for item in again] == [item.right for item in drawn]


def test_the_sheet_names_no_arm_no_row_and_no_gold(make: Any) -> None:
    drawn = draw(sides(make, 20, 0), prompts_of(20), 20, lot(KEY, "r"))
    for sheet in (table("0a1b2c3d", drawn.items), form("0a1b2c3d", drawn.items)):
        assert not re.search(r"adapter|\bbase\b|majority|svm|row\d|group\d|gold", sheet, re.IGNORECASE)
        assert sheet.count("Name it.\n\ntext 7") + sheet.count("Name it.\\n\\ntext 7") >= 1
    rows = list(csv.DictReader(io.StringIO(table("0a1b2c3d", drawn.items))))
    assert list(rows[0]) == ["item", "prompt", "left", "right", "better", "comment"]
    assert rows[0]["item"] == "0a1b2c3d-01"
    assert {(row["better"], row["comment"]) for row in rows} == {("", "")}


def test_the_form_stands_alone_and_runs_no_text(make: Any) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    item = drawing.Item("r", "g", "base", evil, evil, "=cmd")
    plain = drawing.Item("r", "g", "base", "p", "l", "r")
    page = form("0a1b2c3d", [item])
    assert page.count("<script") == 3
    assert "<img" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:https?:|url\(|@import|\ssrc=|\shref=)", form("0a1b2c3d", [plain]))
    cells = re.search(r'id="cells">(.*?)</script>', page)
    assert cells is not None
    assert json.loads(cells[1]) == [list(item.cells())]


def test_arms_that_answer_alike_leave_nothing_to_review(make: Any) -> None:
    with pytest.raises(DataError, match="base and adapter answer all 9 rows alike"):
        draw(sides(make, 9, 9), prompts_of(9), 5, lot(KEY, "r"))


def test_a_question_about_a_document_shows_its_windows_and_the_joined_quotes(make: Any) -> None:
    a, b = make([["q"]], ["[]"], arm="base"), make([["q"]], ['["q"]\n[]'])
    a[0] |= {"document": "d", "question": "Term", "prediction": []}
    b[0] |= {"document": "d", "question": "Term", "prediction": ["q"]}
    windows = [
        {"id": f"w{number}", "document": "d", "question": "Term", "window": number, "messages": messages}
        for number, messages in (
            (1, [{"role": "user", "content": "two"}]),
            (0, [{"role": "user", "content": "one"}]),
        )
    ]
    found: Drawn = draw(Sides("base", TaskKind.spans, a, b), windows, 5, lot(KEY, "r"))
    [item] = found.items
    assert item.prompt == "one\n\n[…]\n\ntwo"
    assert sorted((item.left, item.right)) == ['["q"]', "[]"]
    assert answer_text(a[0] | {"prediction": None, "raw": " {"}, TaskKind.spans) == "{"  # type: ignore[arg-type]
