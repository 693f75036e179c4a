"""The stage from prepared rows and a trained adapter to a verdict, on a 2-layer Llama."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from eval.evaluate import run as evaluate
from finetune.stage import stage
from finetune.train import run as train

ARMS = ["adapter", "base", "majority", "svm"]


@pytest.fixture
def command(argv: Callable[..., list[str]]) -> Callable[..., int]:
    """Runs `eval` on an adapter of two steps; the exit code."""
    settings = ["train.max_steps=2", "tracking.mode=disabled"]
    assert stage("prepare", prepare, argv(*settings)) == 0
    assert stage("train", train, argv(*settings)) == 0
    return lambda *more: stage("eval", evaluate, argv(*settings, *more))


def run_folder(private: Path, stage_folder: str) -> Path:
    parent = private / "artifacts" / stage_folder
    return parent / (parent / "current").read_text().strip()


def require_what_was_lost(folder: Path, report: dict[str, Any]) -> None:
    """12 rows are too few for calibration or a slice; drift and the suites are there, and which files were asked."""
    assert report["calibration"]["clause"] == dict.fromkeys(ARMS)
    assert report["drift"]["clause"]["majority"]["median_characters"] == len("notice")
    assert (report["slices"], report["worst_slice"]) == ([], None)
    assert {"task": "clause", "by": "label", "slices": 2, "rows": 12} in report["slices_too_small"]
    suites = report["forgetting"]["suites"]
    assert [(item["name"], item["n"]) for item in suites] == [("own_instructions", 8), ("own_knowledge", 8)]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"suite own_instructions", "suite own_knowledge"} <= manifest["inputs"].keys()


def test_report_rerun_and_refusals(
    command: Callable[..., int], private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    folder = run_folder(private, "reports/tiny")
    assert sorted(path.stem for path in folder.glob("*.jsonl")) == [f"predictions_{arm}" for arm in ARMS]
    test = run_folder(private, "data/tiny_rows") / "test.jsonl"
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    found = [json.loads(line) for line in (folder / "predictions_base.jsonl").read_text().splitlines()]
    assert [(row["id"], row["target"]) for row in rows] == [(item["id"], item["gold"]) for item in found]
    report = json.loads((folder / "report.json").read_text())
    assert report["schema"] == 1
    assert report["arms"]["majority"]["clause"]["in_vocabulary"] == 1.0
    require_what_was_lost(folder, report)
    assert "the party shall" not in (folder / "report.html").read_text()
    out = capsys.readouterr().out
    assert "forgetting: own_instructions " in out
    assert f"report: {folder / 'report.html'}" in out
    assert "the party shall" not in out

    before = (folder / "report.html").stat().st_mtime_ns
    adapter = run_folder(private, "adapters/tiny").name
    assert command() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command(f"run={adapter}", "model.date_string=today") == 0  # RUN=: the recorded settings count
    assert (folder / "report.html").stat().st_mtime_ns == before

    assert command("eval.accept_inconclusive=false") == 3  # three groups can show nothing
    refused = capsys.readouterr()
    strict = run_folder(private, "reports/tiny")
    assert strict != folder
    assert (strict / "manifest.json").is_file()
    errors = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "12 rows in 3 groups" in errors[0]

    assert command("train.lr=0.5") == 2
    assert "train.lr" in capsys.readouterr().err
    (folder / "report.json").write_text("{}")
    assert command() == 4
    assert "report.json differs from its manifest" in capsys.readouterr().err


def test_without_an_adapter_it_says_what_to_run(
    argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage("eval", evaluate, argv()) == 2
    assert "run `make train CONF=tiny`" in capsys.readouterr().err
