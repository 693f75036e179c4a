"""Merged weights as an arm: of an export of this very adapter, by transformers or vLLM, with no part in any gate."""

import json
import shutil

import pytest
from exported import EAGER, SMALL, current, needs_vllm
from house import House, problem

from eval import evaluate
from finetune.stage import stage

Captured = pytest.CaptureFixture[str]


def evaluated(house: House, *more: str) -> int:
    return stage("eval", evaluate.run, house.argv(*SMALL, *more))


def newest(house: House, arms: list[str]) -> dict[str, object]:
    """The one report of these arms."""
    reports = [
        json.loads(path.read_text()) for path in house.folder.glob("artifacts/reports/tiny/*/report.json")
    ]
    [found] = [report for report in reports if sorted(report["arms"]) == arms]
    return found


def test_merged_weights_are_compared_with_the_adapter_and_stand_in_no_gate(
    breakable: House, capsys: Captured
) -> None:
    before = current(breakable, "reports")
    assert evaluated(breakable, "eval.arms=[merged]") == 0
    assert "no gate: eval.arms lacks base" in capsys.readouterr().out
    report = newest(breakable, ["adapter", "merged"])
    assert (report["gate"], report["forgetting"]) == (None, None)
    [found] = [item for item in report["comparisons"] if item["metric"] == "exact_match"]
    assert (found["a"], found["b"], found["n"]) == ("merged", "adapter", 12)
    assert current(breakable, "reports") == before
    assert evaluated(breakable, "eval.arms=[merged]", "eval.scoring=labels") == 0


def test_an_export_of_another_adapter_is_none_of_this_one(breakable: House, capsys: Captured) -> None:
    shutil.rmtree(breakable.folder / "artifacts/exports")
    assert evaluated(breakable, "eval.arms=[merged]") == 2
    assert "eval.arms=[merged] needs an export of adapter tiny/" in problem(capsys.readouterr().err)


@needs_vllm
@pytest.mark.serve
def test_vllm_answers_for_merged_weights(breakable: House) -> None:
    assert evaluated(breakable, "eval.arms=[merged]", "eval.engine=vllm", EAGER) == 0
    [folder] = {
        path.parent for path in breakable.folder.glob("artifacts/reports/tiny/*/predictions_merged.jsonl")
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["engine"]["name"].startswith("vllm")
    by_arm = {
        arm: [
            json.loads(line)["raw"] for line in (folder / f"predictions_{arm}.jsonl").read_text().splitlines()
        ]
        for arm in ("adapter", "merged")
    }
    assert sum(a == b for a, b in zip(*by_arm.values(), strict=True)) >= 6


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["eval.engine=vllm"], "eval.engine=vllm answers for merged weights alone"),
        (["eval.arms=[base,merged]"], "eval.arms=[base, merged] names merged beside arms of the gate"),
        (["eval.arms=[merged]", "eval.engine=vllm", "eval.scoring=labels"], "scores no labels"),
        (["eval.arms=[served]"], "eval.arms names served, and serve.url is not set"),
        (["eval.arms=[merged]", "eval.against=12345678"], "are two evaluations; set eval.against=null"),
    ],
)
def test_combinations_that_mean_nothing(
    at_home: House, capsys: Captured, settings: list[str], told: str
) -> None:
    assert evaluated(at_home, *settings) == 2
    assert told in problem(capsys.readouterr().err)
