"""No export without a gate that passed, unless forced on record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from eval.evaluate import run as evaluate
from finetune.export import run as export
from finetune.stage import stage
from finetune.train import run as train

SETTINGS = ("train.max_steps=2", "tracking.mode=disabled")


def test_export_needs_a_passed_gate_or_force_on_record(
    private: Path, argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> int:
        body = {"prepare": prepare, "train": train, "eval": evaluate, "export": export}[name]
        return stage(name, body, argv(*SETTINGS, *more))

    def refusal() -> str:
        capsys.readouterr()
        assert run("export") == 3
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        return line

    exports = private / "artifacts/exports/tiny"
    assert (run("prepare"), run("train")) == (0, 0)
    assert "with a gate is finished; run `make eval CONF=tiny`" in refusal()
    assert run("eval", "eval.arms=[adapter,base]") == 0  # no gate
    assert "with a gate is finished" in refusal()
    assert run("eval", "eval.accept_inconclusive=false") == 3
    assert "did not pass (3 of 3 checks; adapter minus majority on clause exact_match" in refusal()
    assert not exports.exists()

    shutil.rmtree(private / "artifacts/reports")
    assert run("export", "export.force=true") == 0
    folder = exports / (exports / "current").read_text().strip()
    (override,) = json.loads((folder / "manifest.json").read_text())["overrides"]
    assert override.startswith("export.force: no evaluation of adapter tiny/")
    card = (folder / "README.md").read_text()
    assert "**Exported against a gate.** export.force: no evaluation" in card
    assert "what it gained is not known" in card

    assert (run("eval"), run("export")) == (0, 0)  # accept_inconclusive of the tiny task
    passed = exports / (exports / "current").read_text().strip()
    assert passed != folder
    assert json.loads((passed / "manifest.json").read_text())["overrides"] == ["eval.accept_inconclusive"]
    assert "**Exported against a gate.** eval.accept_inconclusive." in (passed / "README.md").read_text()
