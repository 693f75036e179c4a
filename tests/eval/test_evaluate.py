"""The stage from prepared rows and a trained adapter to a verdict, on a 2-layer Llama."""

import json
from collections.abc import Callable
from pathlib import Path

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
    assert "the party shall" not in (folder / "report.html").read_text()
    out = capsys.readouterr().out
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


def test_costs_and_examples_of_real_answers(command: Callable[..., int], private: Path) -> None:
    """A CPU's seconds at 3.60 an hour, and the rows that were asked for on a page that only its owner reads."""
    prices = ["plan.price_per_gpu_hour=3.6", "plan.api_price_per_million_tokens=2"]
    assert command("eval.examples=1", *prices) == 0
    folder = run_folder(private, "reports/tiny")
    report = json.loads((folder / "report.json").read_text())
    cost, lengths = report["cost"], report["lengths"]["clause"]
    assert (cost["is_cpu"], cost["missing"], cost["own"]["items"]) == (True, [], 12)
    assert set(cost["seconds"]) == {"base", "adapter"}
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
