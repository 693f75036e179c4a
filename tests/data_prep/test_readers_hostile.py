"""Every hostile or malformed file ends in its own reason or one line, in time, and without a word of its content."""

import os
from pathlib import Path

import hostile
import pytest

from data_prep.readers import Broken, read_table, sql, texts
from finetune.errors import HallmarkError

needs_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")


def cases(*kinds: str) -> list[object]:
    """The corpus's cases of these kinds; those about rights are skipped for root, who has all."""
    return [
        pytest.param(case, id=case.name, marks=needs_rights if "without rights" in case.name else ())
        for case in hostile.CASES
        if case.kind in kinds
    ]


@pytest.mark.parametrize("case", cases("text"))
def test_a_hostile_file_is_broken_for_a_reason(case: hostile.Case, tmp_path: Path) -> None:
    assert list(texts([case.build(tmp_path)], case.limits, workers=1)) == [Broken(case.expected)]


def read_all(case: hostile.Case, path: Path) -> None:
    """Ask each record for its text and its target, as a source does."""
    is_sql = case.kind == "sql"
    records = (
        sql.records(case.url.format(path=path), case.query, "cases")
        if is_sql
        else read_table(path, case.limits)
    )
    for record in records:
        record.text("text")
        record.labels("target", None)


@pytest.mark.parametrize("case", cases("table", "sql"))
def test_a_malformed_table_or_database_is_one_line(case: hostile.Case, tmp_path: Path) -> None:
    path = case.build(tmp_path)
    with pytest.raises(HallmarkError) as refused:
        read_all(case, path)
    message = str(refused.value)
    assert case.expected in message
    assert "\n" not in message
    assert "secret" not in message


def test_the_corpus_is_large_and_every_file_would_show_a_leak(tmp_path: Path) -> None:
    assert len(hostile.CASES) >= 100
    assert len({case.name for case in hostile.CASES}) == len(hostile.CASES)
    assert not any("secret" in case.expected for case in hostile.CASES)


def test_all_hostile_files_together_give_their_reasons_in_order_for_any_number_of_workers(
    tmp_path: Path,
) -> None:
    shared = [case for case in hostile.CASES if case.kind == "text" and case.limits == hostile.LIMITS]
    shared = [case for case in shared if "without rights" not in case.name]
    files = []
    for number, case in enumerate(shared):
        (tmp_path / str(number)).mkdir()
        files.append(case.build(tmp_path / str(number)))
    for workers in (1, 3):
        assert list(texts(files, hostile.LIMITS, workers)) == [Broken(case.expected) for case in shared]
