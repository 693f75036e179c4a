"""Metrics of ICD-10-CM codes, their categories and chapters, on codes whose place in the book is known."""

from typing import Any

import pytest

from eval.metrics.coding import written
from eval.tasks import Task, make_task
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.errors import MachineError
from finetune.generate import Answer

pytest.importorskip("simple_icd_10_cm", reason="the package with the ICD-10-CM tables is not installed")


def task(**fields: Any) -> Task:
    return make_task(
        "code", TaskConfig(TaskKind.coding, Metric.micro_f1, package="simple_icd_10_cm", **fields)
    )


def measured(answers: list[str], targets: list[Any], **fields: Any) -> dict[str, float | None]:
    rows = [
        {"id": f"r{index}", "group": f"g{index}", "target": target} for index, target in enumerate(targets)
    ]
    found = task(**fields).predict(rows, [Answer(text, None, ()) for text in answers], "adapter")
    return task(**fields).measure(found, set())


def test_credit_for_the_category_and_the_chapter() -> None:
    """Right; another diabetes code; E20 of the same chapter; and no code at all, of a category that exists."""
    found = measured(["E11.9", "E11.65", "E20.9", "E11.ZZZ"], ["E11.9"] * 4)
    assert (found["exact_match"], found["micro_f1"]) == (0.25, 0.25)
    assert (found["category_f1"], found["chapter_f1"]) == (0.75, 1.0)
    assert found["invalid_code_rate"] == 0.25


def test_lists_of_codes() -> None:
    """Codes: 1 hit of 3 and 3. Categories: I10, E11 of I10, E11, J45. Chapters: 9, 4 of 9, 4, 10."""
    found = measured(['["I10","E11.65","E11.21"]'], [["I10", "E11.9", "J45.20"]])
    assert found["micro_f1"] == pytest.approx(1 / 3)
    assert found["category_f1"] == found["chapter_f1"] == pytest.approx(2 * 2 / (2 + 3))
    assert found["macro_f1"] == pytest.approx(1 / 3)  # over I10, E11.9 and J45.20
    assert found["precision_at_8"] is None
    assert measured(['["I10","E11.9"]'], [["I10", "E11.9"]], ranked=True)["precision_at_8"] == 2 / 8


def test_the_point_and_the_case_of_a_code_do_not_count() -> None:
    assert [written(code) for code in ("e119", "E11.9", " I10 ", "S72.001A")] == [
        "E11.9",
        "E11.9",
        "I10",
        "S72.001A",
    ]
    assert measured(["e119"], ["E11.9"])["exact_match"] == 1.0


def test_chapters_blocks_and_sentences_are_no_codes() -> None:
    found = measured(["4", "E08-E13", "The code is E11.9", ""], ["E11.9"] * 4)
    assert found["invalid_code_rate"] == 1.0
    assert found["category_f1"] == found["exact_match"] == 0.0


def test_a_missing_package_is_said() -> None:
    with pytest.raises(MachineError, match="no_such_book .eval.tasks.code.package. is not installed"):
        make_task("code", TaskConfig(TaskKind.coding, package="no_such_book"))
