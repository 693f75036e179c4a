"""Mistakes at the command: one line that names what to fix, the exit code of its kind, nothing damaged."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from team import ROOT, Team

pytestmark = pytest.mark.pipeline
SECRET = "CONFIDENTIAL-4711"
Done = subprocess.CompletedProcess[str]


def refused(done: Done, code: int, *told: str) -> None:
    """The exit code, one line a problem, each text told, no traceback, no private text."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines, done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout
    for text in told:
        assert text in "\n".join(lines)


def test_make_without_conf_or_with_an_unknown_one_lists_the_choices(walked: tuple[Team, str]) -> None:
    for arguments in (["train"], ["train", "CONF=nothing"]):
        done = walked[0].make(*arguments)
        assert done.returncode == 2
        assert "licences_smollm135m" in done.stderr
        assert "tiny" in done.stderr


@pytest.mark.parametrize("stage", ["prepare", "train", "eval", "export"])
def test_every_stage_refuses_a_typo_before_it_does_anything(walked: tuple[Team, str], stage: str) -> None:
    refused(walked[0].stage(stage, "+train.lrr=1"), 2, "train.lrr is not a known key; did you mean train.lr?")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "x", "target": "notice"', "rows.jsonl:41"),
        ('["x"]', "rows.jsonl:41"),
        ('{"target": "notice", "contract": "c"}', "rows.jsonl:41: field 'text'"),
        ('{"text": "", "target": "notice", "contract": "c"}', "rows.jsonl:41: field 'text'"),
        (f'{{"text": "{SECRET}", "target": 7, "contract": "c"}}', "rows.jsonl:41: field 'target'"),
        (f'{{"text": "{SECRET}", "target": "other", "contract": "c"}}', "rows.jsonl:41"),
    ],
)
def test_a_broken_row_names_file_line_and_field(fresh: Callable[[], Team], line: str, told: str) -> None:
    team = fresh()
    with (team.folder / "data" / "rows.jsonl").open("a") as stream:
        stream.write(line + "\n")
    refused(team.stage("prepare"), 4, told)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_missing_or_empty_data(fresh: Callable[[], Team], content: str | None) -> None:
    team = fresh()
    path = team.folder / "data" / "rows.jsonl"
    path.unlink() if content is None else path.write_text(content)
    refused(team.stage("prepare"), 4, "rows.jsonl")


def test_a_missing_base_says_where_to_put_it(breakable: Team) -> None:
    shutil.rmtree(breakable.folder / "models")
    shutil.rmtree(breakable.folder / "artifacts" / "bases")
    refused(breakable.stage("train"), 5, "is not a model folder", "MODELS_ROOT")


def test_a_row_longer_than_the_token_budget(breakable: Team) -> None:
    refused(breakable.stage("train", "train.max_tokens=20"), 3, "24 of 24 rows exceed train.max_tokens=20")


def test_data_of_other_settings(breakable: Team) -> None:
    refused(breakable.stage("train", "data.seed=5"), 2, "data.seed=5 today, but 0 in", "make prepare")


def test_half_written_data(breakable: Team) -> None:
    (breakable.current("data", "tiny_rows") / "manifest.json").unlink()
    refused(breakable.stage("train"), 2, "is unfinished", "make prepare")


def test_damaged_data(breakable: Team) -> None:
    path = breakable.current("data", "tiny_rows") / "train.jsonl"
    path.write_bytes(path.read_bytes().replace(b"notify", b"notifY", 1))
    refused(breakable.stage("train"), 4, "train.jsonl differs from its manifest")


def test_nothing_prepared_or_trained_yet(fresh: Callable[[], Team]) -> None:
    team = fresh()
    refused(team.stage("train"), 2, "has no finished run; run `make prepare CONF=tiny`")
    refused(team.stage("eval"), 2, "has no finished run; run `make train")
    refused(team.stage("export"), 2, "has no finished run; run `make train")


def test_an_adapter_of_another_base(breakable: Team) -> None:
    path = breakable.current("adapters") / "manifest.json"
    found = json.loads(path.read_text())
    found["inputs"]["base"]["content"] = "0" * 64
    path.write_text(json.dumps(found))
    for stage in ("eval", "export"):
        refused(breakable.stage(stage), 2, "was made from base tiny_llama/", "content 00000000")


def test_a_base_whose_weights_changed(breakable: Team) -> None:
    path = breakable.current("bases", "tiny_llama") / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(breakable.stage("export"), 4, "model.safetensors differs from its manifest")


def test_the_wandb_folder_cannot_be_written(breakable: Team) -> None:
    shutil.rmtree(breakable.folder / "artifacts" / "adapters")
    shutil.rmtree(breakable.folder / "runs")
    (breakable.folder / "runs").write_text("a file, not a folder")
    refused(breakable.stage("train"), 5, "runs cannot be written", "paths.runs")


def test_online_tracking_without_a_key(breakable: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    shutil.rmtree(breakable.folder / "artifacts" / "adapters")
    refused(breakable.stage("train", "tracking.mode=online"), 2, "WANDB_API_KEY", "tracking.key_from_env")


def test_the_artifacts_folder_cannot_be_written(breakable: Team) -> None:
    place = breakable.folder / "a-file"
    place.write_text("x")
    refused(
        breakable.stage("prepare", f"paths.artifacts_root={place}/artifacts"), 5, "a-file", "ARTIFACTS_ROOT"
    )


def test_a_full_disk_leaves_what_was_there(breakable: Team, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed on this machine")
    try:
        shutil.copytree(breakable.folder / "artifacts" / "data", small / "data")
        before = sorted(path.name for path in small.rglob("*"))
        done = breakable.stage("train", f"paths.artifacts_root={small}")
        refused(done, 5, "No space left on device")
        assert set(before) <= {path.name for path in small.rglob("*")}
        assert (
            not list((small / "adapters").rglob("manifest.json")) if (small / "adapters").exists() else True
        )
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_gate_that_refuses_leaves_the_report_to_read(breakable: Team) -> None:
    done = breakable.stage("eval", "eval.min_gain=0.99", "eval.accept_inconclusive=false")
    refused(done, 3)
    assert (breakable.current("reports") / "report.html").is_file()


def test_fidelity_beyond_its_threshold_is_not_exported(breakable: Team) -> None:
    first = breakable.current("exports")
    done = breakable.stage("export", "export.max_kl_over_floor=1e-6")
    refused(done, 3, "export.max_kl_over_floor=1e-06 times the noise floor")
    assert breakable.current("exports") == first


def test_no_command_left_anything_in_the_repository() -> None:
    left = subprocess.run(
        ["git", "status", "--porcelain", "wandb", "outputs"], cwd=ROOT, capture_output=True, text=True
    )
    assert left.stdout == ""
