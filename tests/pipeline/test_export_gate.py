"""No export without a gate that passed, unless forced on record."""

import json
import shutil

import pytest
from team import Team

pytestmark = pytest.mark.pipeline


def test_export_needs_a_passed_gate_or_force_on_record(breakable: Team) -> None:
    first = breakable.current("exports")
    assert json.loads((first / "manifest.json").read_text())["overrides"] == ["eval.accept_inconclusive"]
    assert "eval.accept_inconclusive" in (first / "README.md").read_text()
    assert breakable.stage("eval", "eval.accept_inconclusive=false").returncode == 3
    refused = breakable.stage("export")
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    assert refused.returncode == 3
    assert "did not pass (3 of 3 checks;" in line
    assert "make eval CONF=tiny" in line
    assert breakable.current("exports") == first

    shutil.rmtree(breakable.folder / "artifacts/reports")
    refused = breakable.stage("export")
    assert (refused.returncode, "with a gate is finished" in refused.stderr) == (3, True)
    forced = breakable.stage("export", "export.force=true")
    assert forced.returncode == 0, forced.stderr
    export = breakable.current("exports")
    assert export != first
    (override,) = json.loads((export / "manifest.json").read_text())["overrides"]
    assert override.startswith("export.force: no evaluation of adapter tiny/")
    card = (export / "README.md").read_text()
    assert "**Exported against a gate.** export.force: no evaluation" in card
    assert "what it gained is not known" in card
