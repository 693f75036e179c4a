"""Published runs beside their predictions: `scripts/check_plan.py` on real and on broken points files."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.check_plan import Outcome, main, outcome, problems, read_points

POINTS = Path(__file__).resolve().parents[4] / "shared" / "data" / "memory_points.json"


@pytest.fixture(scope="module")
def points() -> dict[str, dict[str, Any]]:
    if not POINTS.is_file():
        pytest.skip(f"{POINTS} is not on this machine")
    return {row["id"]: row for row in read_points(POINTS)}


@pytest.mark.parametrize(
    ("run", "within"),
    [("fms-189", 0.02), ("fms-177", 0.02), ("fms-006", 0.02), ("fms-233", 0.02), ("litgpt-007", 0.05)],
)
def test_a_published_peak_is_predicted(run: str, within: float, points: dict[str, dict[str, Any]]) -> None:
    """QLoRA and bf16 LoRA on one A100, FSDP on two and four, LitGPT without recomputation."""
    found = outcome(points[run])
    assert found.error is not None
    assert abs(found.error) < within
    assert found.verdict == "fits"


def test_a_run_that_was_out_of_memory_is_not_called_fits(points: dict[str, dict[str, Any]]) -> None:
    assert outcome(points["fms-204"]).verdict == "does not fit"


def test_what_cannot_be_expressed_says_why(points: dict[str, dict[str, Any]]) -> None:
    assert outcome(points["qwen-013"]).reason.startswith("base stored as gptq-int4")


def test_each_bar_is_held() -> None:
    good = Outcome(
        "a", "x", "torch_max_allocated", "A", predicted_gib=10.0, measured_gib=10.0, verdict="fits"
    )
    assert problems([good]) == []
    far = Outcome("b", "x", "torch_max_allocated", "A", predicted_gib=11.5, measured_gib=10.0, verdict="fits")
    assert problems([far]) == ["median error 15.0% above 4%", "90th percentile 15.0% above 10%"]
    lost = Outcome("c", "x", "torch_max_allocated", "A", oom=True, predicted_gib=10.0, verdict="fits")
    assert problems([lost]) == ["c was out of memory and is called fits"]
    unsaid = Outcome("d", "x", "torch_max_allocated", "A", reason="no words")
    assert problems([good, unsaid]) == ["1 of 2 rows are expressed, 90% are asked"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"id": "x"}]', "row 1 (id x) has no source, model"),
        ("{}", "a list of runs is needed, not dict"),
        ("[", "is no file of runs"),
        ("[3]", "row 1 (id ?) has no id"),
    ],
)
def test_a_broken_points_file_is_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "points.json"
    path.write_text(text)
    assert main([str(path)]) == 4
    said = capsys.readouterr().err.strip()
    assert told in said
    assert "\n" not in said


def test_lines_of_our_own_calibration_are_read(tmp_path: Path) -> None:
    path = tmp_path / "calibration.jsonl"
    row = dict.fromkeys(
        "id source model arch quant seq_len micro_batch lora_rank num_gpus gpu peak_gib peak_kind oom quality".split()
    )
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert len(read_points(path)) == 2
