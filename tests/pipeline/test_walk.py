import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from team import Team

pytestmark = pytest.mark.pipeline
KINDS = {
    "data": "tiny_rows",
    "plans": "tiny",
    "adapters": "tiny",
    "reports": "tiny",
    "exports": "tiny",
    "bases": "tiny_llama",
}


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def weights_of(folder: Path) -> str:
    """Digest of the adapter's weights, as the manifest has it."""
    (found,) = (
        item for item in manifest(folder)["files"] if item["path"].endswith("adapter_model.safetensors")
    )
    return str(found["sha256"])


def wait_for(path: Path, seconds: int = 120) -> None:
    """Until the file holds something."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_every_stage_leaves_a_finished_folder_and_names_the_next_command(walked: tuple[Team, str]) -> None:
    team, said = walked
    for kind, name in KINDS.items():
        assert manifest(team.current(kind, name))["run"] == team.current(kind, name).name
    assert [line for line in said.splitlines() if line.startswith("next:")] == [
        "next: make plan CONF=tiny",
        "next: make train CONF=tiny",
        "next: make eval CONF=tiny",
        "next: make export CONF=tiny",
    ]


def test_each_manifest_names_the_content_of_its_inputs(walked: tuple[Team, str]) -> None:
    team, _ = walked
    contents = {kind: manifest(team.current(kind, name))["content"] for kind, name in KINDS.items()}
    adapter, report, export = (
        manifest(team.current(kind))["inputs"] for kind in ("adapters", "reports", "exports")
    )
    assert adapter["data"]["content"] == contents["data"]
    assert adapter["base"]["content"] == contents["bases"]
    (quantised,) = (team.folder / "artifacts" / "bases" / "tiny_llama").glob("*-nf4")
    assert manifest(quantised)["inputs"]["base"]["content"] == contents["bases"]
    kept = manifest(team.current("adapters"))["facts"]["quantised_base"]
    assert (kept["run"], kept["content"]) == (quantised.name, manifest(quantised)["content"])
    assert report["adapter"]["content"] == export["adapter"]["content"] == contents["adapters"]


def test_the_rows_are_all_accounted_for(walked: tuple[Team, str]) -> None:
    counts = {
        side: (walked[0].current("data", "tiny_rows") / f"{side}.jsonl").read_text().count("\n")
        for side in ("train", "val", "test")
    }
    assert sum(counts.values()) == 40


def test_the_adapter_learned_and_the_report_says_against_what(walked: tuple[Team, str]) -> None:
    report = json.loads((walked[0].current("reports") / "report.json").read_text())
    assert set(report["arms"]) == {"base", "few_shot", "adapter", "adapter_few_shot", "majority", "svm"}
    assert (
        report["arms"]["adapter"]["clause"]["exact_match"] > report["arms"]["base"]["clause"]["exact_match"]
    )


def test_the_export_is_proved_and_loads_without_us(walked: tuple[Team, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export, base = walked[0].current("exports"), walked[0].current("bases", "tiny_llama")
    figures = json.loads((export / "fidelity.json").read_text())
    assert figures["passed"] is True
    assert (figures["tensors_changed"], figures["prompt_ids_equal"]) == (14, True)
    assert figures["fp32_kl"] <= 1e-4
    assert figures["max_rounding_ulp"] <= 0.5
    model = AutoModelForCausalLM.from_pretrained(export)
    assert str(model.dtype) == "torch.bfloat16"
    assert (export / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (
        AutoTokenizer.from_pretrained(export).chat_template
        == AutoTokenizer.from_pretrained(base).chat_template
    )
    changed = "model.layers.0.mlp.up_proj.weight"
    assert not load_file(export / "model.safetensors")[changed].equal(
        load_file(base / "model.safetensors")[changed]
    )


def test_trainables_are_fp32_and_every_linear_layer_has_an_adapter(walked: tuple[Team, str]) -> None:
    weights = load_file(walked[0].current("adapters") / "adapter" / "adapter_model.safetensors")
    assert len(weights) == 28  # A and B of 7 linear layers in 2 blocks
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def test_what_is_printed_holds_no_text_of_a_row(walked: tuple[Team, str]) -> None:
    assert "the party shall" not in walked[1]


def test_a_second_walk_does_nothing_and_says_so(breakable: Team) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (breakable.folder / "artifacts").rglob("manifest.json")
    }
    done = breakable.make("all", "CONF=tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to do") == 4
    assert "already planned with these settings" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_rerun_after_the_manifest_is_gone_trains_the_same_adapter(breakable: Team) -> None:
    folder = breakable.current("adapters")
    before = weights_of(folder)
    (folder / "manifest.json").unlink()
    assert breakable.stage("train").returncode == 0
    assert weights_of(folder) == before  # bit for bit on CPU


def test_a_killed_run_leaves_nothing_that_looks_finished_and_starts_again(breakable: Team) -> None:
    folder = breakable.current("adapters")
    before = weights_of(folder)
    shutil.rmtree(folder)
    killed = breakable.start("train")
    wait_for(folder / "log.jsonl")
    killed.kill()
    killed.wait()
    assert not (folder / "manifest.json").exists()
    refused = breakable.stage("eval")
    assert (refused.returncode, "is unfinished" in refused.stderr) == (2, True)
    assert breakable.stage("train").returncode == 0
    assert weights_of(folder) == before


def test_run_names_an_earlier_adapter(breakable: Team) -> None:
    first = breakable.current("adapters").name
    assert breakable.stage("train", "train.max_steps=2").returncode == 0
    assert breakable.current("adapters").name != first
    stale = breakable.stage("export")
    assert (stale.returncode, "train.max_steps=30 today, but 2 in" in stale.stderr) == (2, True)
    named = breakable.stage("export", f"run={first}")
    assert named.returncode == 0, named.stderr
    assert "nothing to do" in named.stdout


def test_no_stage_needs_the_network(breakable: Team) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("unshare -n is not allowed on this machine")
    shutil.rmtree(breakable.folder / "artifacts" / "adapters")
    command = [unshare, "-rn", sys.executable, "-m", "finetune.train", "experiment=tiny"]
    more = [f"paths.runs={breakable.folder / 'runs'}"]
    done = subprocess.run([*command, *more], env=breakable.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
