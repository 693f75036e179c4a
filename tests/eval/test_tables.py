"""The report as tables in a real offline run, read back by wandb's own command: numbers, and nothing private."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from full_report import CANARY, LABELS, ROWS, full_report

from eval.report.tables import tables
from finetune.artifacts import Spec
from finetune.config import load
from finetune.metrics import JobType, unknown
from finetune.tracking import open_run, read_records


@pytest.fixture(autouse=True)
def fresh_service() -> Iterator[None]:
    """With a wandb service of its own."""
    yield
    wandb.teardown()


@pytest.fixture
def written(argv: Callable[..., list[str]]) -> Path:
    """The folder of an offline run that was given the tables of a report whose rows and groups are canaries."""
    run = load(argv())
    with open_run(run, JobType.eval, Spec("report", 2, run.name, {"eval": run.eval}, {})) as tracker:
        for name, (columns, rows) in tables(full_report().report).items():
            tracker.table(name, columns, rows)
    return next(Path(run.paths.runs).glob("wandb/offline-run-*"))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Each table of the run by its name, as the file that its record names holds it."""
    records = read_records(next(folder.glob("*.wandb")))
    item = {
        key: value
        for record in records
        if record["type"] == "history"
        for key, value in record["history"]["item"].items()
    }
    paths = {key.removesuffix(".path"): value for key, value in item.items() if key.endswith(".path")}
    assert all(item[f"{name}._type"] == "table-file" for name in paths)
    return {name: json.loads((folder / "files" / path).read_text()) for name, path in paths.items()}


def test_tables_hold_the_numbers_of_the_report(written: Path) -> None:
    report, found = full_report().report, read(written)
    assert list(found) == ["eval/table/arms", "eval/table/comparisons", "eval/table/slices"]
    assert not unknown(found, JobType.eval)
    arms = {(task, arm, metric): value for task, arm, metric, value in found["eval/table/arms"]["data"]}
    assert len(arms) == 5 * 5
    assert arms["clause", "adapter", "macro_f1"] == report["arms"]["adapter"]["clause"]["macro_f1"]
    compared = found["eval/table/comparisons"]
    row = dict(zip(compared["columns"], compared["data"][0], strict=True))
    assert row == {key: report["comparisons"][0][key] for key in compared["columns"]}
    assert (row["a"], row["b"], row["n"]) == ("base", "adapter", ROWS)
    slices = found["eval/table/slices"]
    assert [line[:3] for line in slices["data"]] == [
        [number, "clause", item["by"]] for number, item in enumerate(report["slices"])
    ]
    assert slices["data"][0][slices["columns"].index("delta")] == report["slices"][0]["delta"]


def test_no_file_of_the_run_holds_a_rows_text_or_a_label(written: Path) -> None:
    texts = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    assert sum(path.name.endswith(".table.json") for path in texts) == 3
    private = [CANARY, *LABELS, "642 to 2990", "grants it"]
    assert not [
        (path.name, word) for path, text in texts.items() for word in private if word.encode() in text
    ]
    assert any(b"few_shot" in text for text in texts.values())  # what is meant to be there is found as it is


def test_a_report_without_slices_has_no_such_table() -> None:
    report = {**full_report().report, "slices": None}
    assert list(tables(report)) == ["eval/table/arms", "eval/table/comparisons"]
