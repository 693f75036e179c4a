"""The stage from prepared rows and a trained adapter to a verdict, on a 2-layer Llama."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from eval.evaluate import run as evaluate
from finetune.stage import stage
from finetune.train import run as train

ARMS = ["adapter", "adapter_few_shot", "base", "few_shot", "majority", "svm"]


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
    assert len(errors) == 3  # one for each of base, few_shot and majority
    assert all("12 rows in 3 groups" in line for line in errors)

    assert command("train.lr=0.5") == 2
    assert "train.lr" in capsys.readouterr().err
    (folder / "report.json").write_text("{}")
    assert command() == 4
    assert "report.json differs from its manifest" in capsys.readouterr().err


def test_the_gate_stands_in_the_report_and_without_its_arms_nothing_becomes_current(
    command: Callable[..., int], private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    folder = run_folder(private, "reports/tiny")
    report, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "manifest"))
    assert report["gate"]["passed"]
    assert {check["a"] for check in report["gate"]["checks"]} == {"base", "few_shot", "majority"}
    assert manifest["overrides"] == ["eval.accept_inconclusive"]  # three groups can show nothing
    assert manifest["counts"]["examples"] == {"shown": 36, "dropped": 0, "rows_without": 0, "marked": 0}
    assert set(manifest["counts"]["answers_cut"]) == {"base", "few_shot", "adapter", "adapter_few_shot"}
    capsys.readouterr()
    assert command("eval.arms=[svm,adapter]", "eval.accept_inconclusive=false") == 0
    assert "no gate: eval.arms lacks base, few_shot, majority" in capsys.readouterr().out
    assert run_folder(private, "reports/tiny") == folder


def test_costs_and_examples_of_real_answers(command: Callable[..., int], private: Path) -> None:
    """A CPU's seconds at 3.60 an hour, and the rows that were asked for on a page that only its owner reads."""
    prices = ["plan.price_per_gpu_hour=3.6", "plan.api_price_per_million_tokens=2"]
    assert command("eval.examples=1", *prices) == 0
    folder = run_folder(private, "reports/tiny")
    report = json.loads((folder / "report.json").read_text())
    cost, lengths = report["cost"], report["lengths"]["clause"]
    assert (cost["is_cpu"], cost["missing"], cost["own"]["items"]) == (True, [], 12)
    assert set(cost["seconds"]) == {"base", "few_shot", "adapter", "adapter_few_shot"}
    assert cost["seconds"]["adapter"] > 0
    assert cost["own"]["cost_per_1000"] == pytest.approx(
        cost["seconds"]["adapter"] / 12
    )  # 1,000 s are one unit
    adapter = json.loads((run_folder(private, "adapters/tiny") / "manifest.json").read_text())
    assert cost["training"]["cost"] == pytest.approx(cost["training"]["seconds"] / 1000)
    assert cost["training"]["seconds"] >= adapter["seconds"]
    assert 60 < cost["api"]["input_tokens"] < 150  # a token a byte
    assert cost["api"]["output_tokens"] <= 10
    assert lengths["gold"][2] in (6, 7)
    assert report["confusion"]["clause"]["adapter"]["label_count"] == 2
    page = folder / "report.html"
    assert page.read_text().count('<div class="panel example">') in (1, 2, 3)
    assert "the party shall" in page.read_text()
    assert "Private: contains row text" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_without_an_adapter_it_says_what_to_run(
    argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage("eval", evaluate, argv()) == 2
    assert "run `make train CONF=tiny`" in capsys.readouterr().err


def rewrite(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    """Another file in a finished folder whose manifest says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for item in manifest["files"]:
        if item["path"] == name:
            item |= {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_text(json.dumps(manifest))


def test_a_test_set_that_no_answer_could_judge_is_refused_before_anything_is_loaded(
    command: Callable[..., int], private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(private, "data/tiny_rows")
    rows, learned = (
        [json.loads(line) for line in (folder / f"{side}.jsonl").read_text().splitlines()]
        for side in ("test", "train")
    )
    for changed, code, told in (
        ([*rows, rows[0]], 4, "1 doubled ids"),
        ([{**row, "group": "g"} for row in rows], 4, "all 12 test rows of task clause are in one group"),
        ([{**row, "target": "notice"} for row in rows], 4, "all 12 gold answers are the same"),
        ([*rows, learned[0]], 3, f"trained on 4 of {len(learned)} rows of tiny_rows"),
        ([*rows, {**rows[0], "id": "x", "messages": learned[0]["messages"]}], 3, "(1 ask what one of its 13"),
    ):
        rewrite(folder, "test.jsonl", changed)
        assert command() == code
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        assert told in line
        assert "the party shall" not in line
    rewrite(folder, "test.jsonl", rows)
    assert not list((private / "artifacts").glob("reports/tiny/*/predictions_*"))
