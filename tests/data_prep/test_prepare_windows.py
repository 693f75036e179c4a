"""Documents in windows: what counts as one, what is dropped whole, what stops the stage."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from contracts import EXTRACT, lines, marked, rows_of, run_of, write_contracts

from data_prep.prepare import prepare
from finetune.config.data import ContaminationConfig, NearDuplicateConfig
from finetune.errors import RefusedError


def report_of(artifact: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.path("report.json").read_text())
    return found


def test_the_budget_counts_documents_and_not_their_windows(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    for number in range(12):
        (tmp_path / "contracts" / f"{number:02d}.txt").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"12 of 20 documents \(60\.0%\) would be lost"):
        prepare(run_of(tmp_path, marked(), **EXTRACT, max_lost_span_fraction=1.0))
    with pytest.raises(
        RefusedError, match="of 20 marked passages 12 stand in files that are missing or unreadable"
    ):
        prepare(run_of(tmp_path, marked(), **EXTRACT))


def test_a_sample_holds_whole_documents_and_no_more_rows_than_asked(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    whole = Counter(
        line["document"] for line in lines(prepare(run_of(tmp_path, marked(), **EXTRACT)), "ledger.jsonl")
    )
    assert set(whole.values()) == {4}
    artifact = prepare(run_of(tmp_path, marked(), **EXTRACT, max_rows=30))
    kept = [line for line in lines(artifact, "ledger.jsonl") if line["outcome"] in ("train", "val", "test")]
    assert sorted(Counter(line["document"] for line in kept).values()) == [4] * 7


def test_a_covered_document_is_dropped_whole_and_its_passages_are_counted(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    for number in range(10, 20):  # the same words after others: one shingle in three is shared
        text = (tmp_path / "contracts" / f"{number - 10:02d}.txt").read_text()
        more = " ".join(f"more{number}w{word}" for word in range(10))
        clause = f"Clause{number} is governed by the laws of State{number}."
        (tmp_path / "contracts" / f"{number:02d}.txt").write_text(f"{more}\n\n{clause} {text}")
    near = NearDuplicateConfig(jaccard=0.99)
    drop = ContaminationConfig(drop_words=50)
    artifact = prepare(run_of(tmp_path, marked(), **EXTRACT, near_duplicates=near, contamination=drop))
    outcomes: dict[str, set[str]] = {}
    for line in lines(artifact, "ledger.jsonl"):
        if line["outcome"] != "note":
            outcomes.setdefault(line["path"], set()).add(line["outcome"])
    dropped = [path for path, found in outcomes.items() if "dropped" in found]
    assert dropped
    assert all(len(found) == 1 for found in outcomes.values())
    assert report_of(artifact)["spans"]["in_dropped_documents"] == len(dropped)


def test_training_without_a_row_is_refused(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    marks = (tmp_path / "marks.csv").read_text().splitlines()
    empty = [f"{number:02d}.txt,law," for number in range(1, 20)]
    (tmp_path / "marks.csv").write_text("\n".join([*marks[:2], *empty]) + "\n")
    # the only clause is in a contract that this seed puts into the test set
    with pytest.raises(
        RefusedError, match="train would have no row: .* training rows without an answer were left"
    ):
        prepare(run_of(tmp_path, marked(), **EXTRACT, seed=1))


def test_each_row_says_which_label_it_asks_about(tmp_path: Path) -> None:
    """The prompt says it too, but there nobody could tell it from the text."""
    write_contracts(tmp_path / "contracts")
    rows = rows_of(prepare(run_of(tmp_path, marked(), **EXTRACT)))
    assert {row["question"] for row in rows} == {"law"}
    assert all(row["messages"][-1]["content"].startswith("law?\n") for row in rows)
