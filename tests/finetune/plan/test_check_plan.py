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
    [("fms-189", 0.02), ("fms-177", 0.02), ("fms-006", 0.02), ("fms-233", 0.02), ("fms-037", 0.005)]
    + [("litgpt-007", 0.005), ("litgpt-008", 0.005)],
)
def test_a_published_peak_is_predicted(run: str, within: float, points: dict[str, dict[str, Any]]) -> None:
    """QLoRA and bf16 LoRA on one A100, FSDP on two and four, logits that the loss's caller keeps, LitGPT."""
    found = outcome(points[run])
    assert found.error is not None
    assert abs(found.error) < within
    assert found.verdict == "fits"


def test_a_run_that_was_out_of_memory_is_not_called_fits(points: dict[str, dict[str, Any]]) -> None:
    assert outcome(points["fms-204"]).verdict == "does not fit"


def test_what_cannot_be_expressed_says_why(points: dict[str, dict[str, Any]]) -> None:
    assert outcome(points["qwen-013"]).reason.startswith("base stored as gptq-int4")


SMALL = {"h": 256, "i": 512, "L": 3, "V": 1000, "n_heads": 4, "n_kv": 2, "tied": False}


def small(**changes: Any) -> dict[str, Any]:
    """A row with the needed fields alone."""
    named = {
        "id": "x",
        "source": "github:them/it",
        "model": "them/llama",
        "arch": dict(SMALL),
        "quant": "nf4",
    }
    sizes = {"seq_len": 64, "micro_batch": 2, "lora_rank": 8, "num_gpus": 1, "gpu": "A100-80GB"}
    return named | sizes | {"peak_gib": None, "peak_kind": "x", "oom": False, "quality": "A"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict.fromkeys(["source", "model", "peak_kind", "quality", "quant", "num_gpus", "oom"]),
        {"arch": None, "model": "HuggingFaceTB/SmolLM2-135M"},
        {"num_gpus": 8, "sharding": "FSDP FULL_SHARD"},
        {"num_gpus": 2, "sharding": "DDP"},
        {"model": "them/mixtral-8x7b"},
        {"model": "tiiuae/falcon-40b", "lora_targets": "q,v", "source": "github:Lightning-AI/litgpt"},
        {"model": "google/gemma-7b", "loss_kernel": "HF default CE"},
    ],
    ids=str,
)
def test_a_row_is_predicted(changes: dict[str, Any]) -> None:
    found = outcome(small(**changes))
    assert (found.reason, found.verdict) == ("", "fits")
    assert found.predicted_gib is not None
    assert found.predicted_gib > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seq_len": "4096"}, "seq_len is 4096, not a whole number from 1 to 10,000,000"),
        ({"micro_batch": -1}, "micro_batch is -1, not a whole number"),
        ({"seq_len": float("nan")}, "seq_len is nan, not a whole number"),
        ({"lora_rank": None}, "no LoRA rank is stated"),
        ({"arch": [1]}, "no shape is stated, and no record of conf/model is them/llama"),
        ({"arch": {**SMALL, "L": None}}, "the architecture lacks L"),
        ({"arch": {**SMALL, "n_heads": 3}}, "cannot be simulated (ConfigError: model.architecture"),
        ({"lora_targets": "foo"}, "cannot be simulated (NoMatchingPeftModuleError: Target modules"),
        ({"loss_kernel": "quantum"}, "loss head quantum is not known"),
        ({"gpu": "TPU v4"}, "GPU TPU v4 is not known"),
        ({"peak_gib": "12"}, "peak_gib is 12, not a number above 0"),
        ({"quant": "bnb-int8"}, "base stored as bnb-int8"),
        ({"num_gpus": 2, "sharding": "DeepSpeed ZeRO-3"}, "2 GPUs by DeepSpeed ZeRO-3"),
        ({"num_gpus": 2, "sharding": "FSDP + CPU offload"}, "2 GPUs by FSDP + CPU offload"),
        ({"optimizer": "SGD"}, "optimizer SGD is not Adam"),
        ({"grad_accum": "4"}, "cannot be simulated (TypeError"),
        ({"settings": [1]}, "cannot be simulated (AttributeError"),
    ],
    ids=str,
)
def test_a_row_without_words_is_named_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    assert outcome(small(**changes)).reason.startswith(reason)


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
