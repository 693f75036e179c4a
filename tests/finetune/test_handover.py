"""Which report lets an adapter be exported, and what is said where none does."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune import artifacts
from finetune.artifacts import Artifact, Spec, input_record
from finetune.card_sections import gain as told_gain
from finetune.card_sections import lost, not_evaluated
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import DataError, RefusedError
from finetune.handover import gate_report, require_gate
from finetune.model_card import _because, _overrides

CHECK = {"kind": "superiority", "task": "clause", "metric": "exact_match", "a": "few_shot", "b": "adapter"}
NUMBERS = {"delta": 0.01, "ci_low": -0.02, "ci_high": 0.04, "margin": 0.0}


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return RunConfig(name="tiny", paths=PathsConfig("", "", str(tmp_path), str(tmp_path / "runs")))


def made(run: RunConfig, stage: str, settings: dict[str, Any], **inputs: Artifact) -> Artifact:
    """A finished artifact; `settings` decide its run and what report.json says."""
    records = {key: input_record(item) for key, item in inputs.items()}
    spec = Spec(stage, 1, "tiny", {"eval": {"confidence": 0.95, **settings}}, records)
    with artifacts.writing(run.paths, spec, move_current=True) as output:
        output.write_json("report.json", settings)
    return output.made()


def gate(passed: bool, **more: Any) -> dict[str, Any]:
    verdict = "better" if passed else "inconclusive"
    check = {**CHECK, **NUMBERS, "verdict": verdict, "passed": passed}
    return {"gate": {"passed": passed, "checks": [check]}, **more}


def dated(report: Artifact, created: str) -> None:
    path = report.path("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": created}))


def chosen(run: RunConfig, adapter: Artifact) -> str | None:
    found = gate_report(run, adapter)
    return found and found.manifest.run


def test_the_newest_report_with_a_gate_on_this_very_adapter_counts(run: RunConfig) -> None:
    mine, other = made(run, "adapter", {"seed": 1}), made(run, "adapter", {"seed": 2})
    assert chosen(run, mine) is None
    old = made(run, "report", gate(True), adapter=mine)
    new = made(run, "report", gate(False), adapter=mine)
    dated(old, "2026-11-01T00:00:00+00:00")
    dated(new, "2026-11-02T00:00:00+00:00")
    later = [
        made(run, "report", {"gate": None, "arms": ["merged"]}, adapter=mine),
        made(run, "report", {"arms": ["of another version"]}, adapter=mine),
        made(run, "report", gate(True), adapter=other),
    ]
    for report in later:
        dated(report, "2026-11-03T00:00:00+00:00")
    assert chosen(run, mine) == new.manifest.run
    dated(old, "2026-11-02T00:00:00+00:00")
    assert chosen(run, mine) == new.manifest.run  # of one second: the refused one
    dated(old, "2026-11-04T00:00:00+00:00")
    assert chosen(run, mine) == old.manifest.run


def test_an_unfinished_report_is_none_and_a_damaged_one_is_no_reason_to_take_an_older(run: RunConfig) -> None:
    adapter = made(run, "adapter", {"seed": 1})
    old = made(run, "report", gate(True), adapter=adapter)
    new = made(run, "report", gate(False), adapter=adapter)
    new.path("report.json").write_text(json.dumps(gate(True)))
    with pytest.raises(DataError, match=r"report\.json differs from its manifest"):
        gate_report(run, adapter)
    new.path("manifest.json").unlink()
    assert chosen(run, adapter) == old.manifest.run


def test_a_gate_that_passed_forces_nothing(run: RunConfig) -> None:
    adapter = made(run, "adapter", {"seed": 1})
    run.export.force = True
    assert require_gate(run, adapter, made(run, "report", gate(True), adapter=adapter)) == []


def test_without_a_passed_gate_one_line_says_what_to_run(run: RunConfig) -> None:
    adapter = made(run, "adapter", {"seed": 1})
    failed = made(run, "report", gate(False), adapter=adapter)
    for report, told in (
        (None, f"no evaluation of adapter tiny/{adapter.manifest.run} with a gate is finished"),
        (
            failed,
            f"the gate of report tiny/{failed.manifest.run} did not pass (1 of 1 checks; adapter minus few_shot on "
            "clause exact_match is +0.0100 [-0.0200, +0.0400]: inconclusive)",
        ),
    ):
        with pytest.raises(RefusedError) as caught:
            require_gate(run, adapter, report)
        (line,) = caught.value.problems
        assert caught.value.exit_code == 3
        assert line.startswith(f"{told}; ")
        assert "make eval CONF=tiny" in line
        assert "export.force=true" in line
        run.export.force = True
        assert require_gate(run, adapter, report) == [f"export.force: {told}"]
        run.export.force = False


def test_the_card_says_gain_losses_and_what_was_forced(run: RunConfig) -> None:
    adapter = made(run, "adapter", {"seed": 1})
    comparison = {**CHECK, **NUMBERS, "verdict": "inconclusive"}
    found = gate(
        False, verdict="inconclusive", reference="few_shot", primary="clause", comparisons=[comparison]
    )
    loss = {**CHECK, **NUMBERS, "kind": "non_inferiority", "task": "ours", "margin": 0.05, "passed": True}
    found["gate"]["checks"].append({**loss, "verdict": "not inferior"})
    report = made(run, "report", found, adapter=adapter)
    text = told_gain(report)
    assert "Verdict: **inconclusive** against few_shot" in text
    assert "gate **not passed**" in text
    assert "| few_shot | clause | exact_match | +0.010 | -0.020 to +0.040 | inconclusive |" in text
    text = lost(report)
    assert "| ours | exact_match | +0.010 | -0.020 to +0.040 | 0.05 | not inferior |" in text
    assert "What the base could do before: **not evaluated**." in text
    assert len(not_evaluated(report)) == 4
    assert "every task" in not_evaluated(None)[0]
    assert "**Exported against a gate.** export.force: why." in _overrides(["export.force: why"])
    assert _overrides([]) == ""
    assert _because({}) == ""
    assert "chose it of two by 8 validation rows: lower KL." in _because({"rows": 8, "because": "lower KL"})
