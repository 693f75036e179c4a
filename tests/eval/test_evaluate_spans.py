"""The stage on quotes from contracts in windows, with a task file of a private folder."""

import json
from collections.abc import Callable
from pathlib import Path

from contracts import write_contracts

from data_prep.prepare import prepare
from eval.evaluate import run as evaluate
from finetune.stage import stage
from finetune.train import run as train

DATA = """name: leases
licence: LicenseRef-test
form: extract
prompt: "{question}?\\n{text}"
windows: {max_chars: 200, overlap_chars: 80}
source:
  kind: documents
  path: contracts
  annotations: marks.csv
  file_field: file
  target_field: label
  quote_field: quote
split: {test_fraction: 0.3}
"""
TASK = "primary: quote\naccept_inconclusive: true\nresamples: 200\nmax_new_tokens: 60\n"
TASK += "tasks:\n  quote: {kind: spans, metric: micro_f1}\n  law: {kind: spans, where: {question: law}}\n"


def test_windows_become_questions_in_the_report(private: Path, argv: Callable[..., list[str]]) -> None:
    write_contracts(private / "data/contracts")
    (private / "conf/data/leases.yaml").write_text(DATA)
    (private / "conf/eval/quotes.yaml").write_text(TASK)
    settings = argv("data=leases", "eval=quotes", "train.max_steps=2", "tracking.mode=disabled")
    for name, run in (("prepare", prepare), ("train", train), ("eval", evaluate)):
        assert stage(name, run, settings) == 0
    parent = private / "artifacts/reports/tiny"
    folder = parent / (parent / "current").read_text().strip()
    found = [json.loads(line) for line in (folder / "predictions_majority.jsonl").read_text().splitlines()]
    questions = [item for item in found if item["task"] == "quote"]
    assert {item["question"] for item in questions} == {"law"}
    assert len({item["document"] for item in questions}) == len(
        questions
    )  # one a contract, whatever its windows
    report = json.loads((folder / "report.json").read_text())
    assert report["arms"]["majority"]["quote"]["parse_rate"] == 1.0
    assert report["arms"]["base"]["law"] == report["arms"]["base"]["quote"]
    assert report["labels"]["quote"]["base"]["law"]["micro_f1"] == report["arms"]["base"]["quote"]["micro_f1"]
    page = (folder / "report.html").read_text()
    assert "is governed by" not in page
