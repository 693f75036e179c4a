"""The preflight on a 2-layer Llama: what it measures, keeps and refuses."""

import fcntl
import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.prepare import prepare
from finetune.chat import IGNORE, Encoded
from finetune.config import load
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import PathsConfig, TrainConfig
from finetune.dataset import TrainingRows
from finetune.errors import ConfigError, DataError
from finetune.plan import calibration
from finetune.plan.device import memory_limit
from finetune.plan.measured import GIB, Measured, comparisons, problems, report
from finetune.plan.settings import Settings
from finetune.preflight import run as preflight
from finetune.stage import stage
from finetune.trial_run import left_bytes, longest_rows, noting_out_of_memory
from scripts import check_plan, published_runs, published_shapes

CPU = HardwareConfig("cpu", Device.cpu)
PLAN = {
    "verdict": "fits",
    "peak_allocated_gib": 8.0,
    "step_s": 2.0,
    "evaluation_gib": 4.0,
    "device_gib": {"total": 10.0, "limit": 16.0},
    "model": {"parameters": 7_000_000_000},
}
LORA_BYTES = 4 * 16 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
"""fp32, rank 16, two layers: A and B of q and o (64 to 64), of k and v (to 32), of the MLP (64 and 128)."""


@pytest.fixture
def command(argv: Callable[..., list[str]]) -> Callable[..., int]:
    """Runs `preflight` on prepared rows; the exit code."""
    assert stage("prepare", prepare, argv()) == 0
    return lambda *more: stage("preflight", preflight, argv(*more))


def kept(private: Path) -> list[dict[str, Any]]:
    path = private / "artifacts" / calibration.FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def measured(**numbers: Any) -> Measured:
    return Measured(
        "a device", Settings({"hidden_size": 64}, rows=2, tokens=500), step_tokens=1000, **numbers
    )


def test_a_run_within_its_margins_is_measured_and_kept_once(
    command: Callable[..., int], private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("train.micro_batch=1", "train.log_every_steps=1")
    assert command(*settings) == 0
    said = capsys.readouterr().out
    assert "next: make train CONF=tiny" in said
    assert "not compared: none is predicted" in said  # no rates of a CPU, no predicted speed
    (folder,) = (path.parent for path in (private / "artifacts/preflights").rglob("manifest.json"))
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "manifest.json", "preflight.json"]
    found = json.loads((folder / "preflight.json").read_text())
    assert found["passed"]
    assert abs(found["memory_error"]) < 0.02
    assert found["margins"] == {"memory": 0.05, "speed": 0.3}
    assert found["predicted_tokens_per_s"] is found["speed_error"] is None
    assert len(found["step_s"]) == 3
    timed = sum(found["step_s"][1:])
    (row,) = kept(private)
    assert found["measured_tokens_per_s"] == pytest.approx(2 * 8 * row["seq_len"] / timed)
    assert 3 * LORA_BYTES <= 2**20 * found["checkpoint_mib"] < 3.3 * LORA_BYTES  # weights and two moments

    assert command(*settings) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(kept(private)) == 1
    written = [path for path in (private / "artifacts").rglob("*") if path.is_file()]
    told = [path for path in written if b"the party shall" in path.read_bytes()]
    assert {path.relative_to(private / "artifacts").parts[0] for path in told} == {
        "data"
    }  # the rows themselves

    again = check_plan.read_points(private / "artifacts" / calibration.FILE)
    hardware = published_runs.hardware_of(again[0])
    assert hardware.memory_gib == memory_limit(CPU) / GIB  # as this machine had it, wherever the row is read
    assert replace(hardware, memory_gib=None) == load(["experiment=tiny"]).hardware
    outcome = check_plan.outcome(again[0])
    assert outcome.error == pytest.approx(found["memory_error"])


def test_further_away_than_the_margin_is_refused_kept_and_measured_again(
    command: Callable[..., int], private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (1, 2):
        assert command("plan.memory_margin=0") == 3
        said = capsys.readouterr().err.splitlines()
        (line,) = [text for text in said if text.startswith("error: ")]
        assert line.startswith("error: peak of a step: ")
        assert "further apart than plan.memory_margin=0; the same command measures again" in line
        assert len(kept(private)) == count
    assert not list((private / "artifacts/preflights").rglob("manifest.json"))
    assert not list((private / "artifacts/preflights").rglob("scratch"))


def test_a_stopped_one_leaves_nothing_finished(command: Callable[..., int], private: Path) -> None:
    main, folder = threading.main_thread().ident, private / "artifacts/preflights"

    def stop() -> None:
        deadline = time.monotonic() + 120
        while not list(folder.rglob("scratch")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(stop)
            assert command() == 130
            stopping.result()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [".lock"]
    assert not kept(private)


def test_memory_and_speed_are_compared_with_the_plan() -> None:
    run = load(["experiment=licences_smollm135m"])
    found = measured(step_s=[9.0, 3.0, 5.0], allocated=10 * GIB, used=11 * GIB)
    compared = comparisons(run, PLAN, found)
    told = report(run, compared, found)
    assert told["measured_tokens_per_s"] == 250  # 1,000 tokens in 4 s
    assert told["predicted_tokens_per_s"] == 500  # in 2 s
    assert told["speed_error"] == 1.0
    assert told["memory_error"] == pytest.approx(-0.2)
    assert not told["passed"]
    memory, speed = problems(PLAN, compared, found)
    assert "10 GiB measured, 8 predicted (-20.0%)" in memory
    assert "plan.memory_margin=0.2 accepts it" in memory
    assert "250 tokens/s measured, 500 predicted (+100.0%)" in speed
    assert "plan.speed_margin=1 accepts it" in speed


@pytest.mark.parametrize(("allocated_gib", "passed"), [(7.7, True), (7.5, False), (8.4, True), (8.5, False)])
def test_the_margin_counts_in_both_directions(allocated_gib: float, passed: bool) -> None:
    run = load(["experiment=licences_smollm135m"])
    found = measured(step_s=[9.0, 2.0, 2.0], allocated=int(allocated_gib * GIB))
    assert report(run, comparisons(run, PLAN, found), found)["passed"] is passed


def test_out_of_memory_ends_it_with_one_line_and_is_kept() -> None:
    run = load(["experiment=licences_smollm135m"])
    found = measured(step_s=[9.0], doing="step 2 of 4")
    with noting_out_of_memory(found, CPU):
        torch.empty(2**50, dtype=torch.uint8)
    compared = comparisons(run, PLAN, found)
    assert not report(run, compared, found)["passed"]
    (line,) = problems(PLAN, compared, found)
    assert line.startswith("out of memory in step 2 of 4: the plan says fits, 10.00 of 16.00 GiB")
    row = calibration.row_of(run, "0123abcd", PLAN, found)
    assert (row["oom"], row["peak_gib"], row["notes"]) == (True, None, "out of memory in step 2 of 4")
    assert found.left is not None
    assert 0 < row["left_gib"] <= memory_limit(HardwareConfig("cpu", Device.cpu)) / GIB


def test_what_others_leave_of_a_machine_is_what_is_free_and_what_this_process_holds(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal:  8388608 kB\nMemAvailable:  2097152 kB\n")
    assert left_bytes(CPU, tmp_path) is None
    (tmp_path / "self/status").write_text("Name:\tpython\nVmRSS:\t 1048576 kB\n")
    assert left_bytes(CPU, tmp_path) == 3 * GIB


def oom_row(left_gib: float | None) -> dict[str, Any]:
    """A tiny step on a CPU of 16 GiB that ran out of memory; it needs 0.86 GiB."""
    run = load(["experiment=licences_smollm135m"])
    shape = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} | {
        "num_attention_heads": 4,
        "vocab_size": 300,
    }
    found = Measured("a device", Settings(shape, 2, 32, device=Device.cpu), 64, out_of_memory=True)
    found.left = None if left_gib is None else int(left_gib * GIB)
    row: dict[str, Any] = json.loads(json.dumps(calibration.row_of(run, "0123abcd", PLAN, found)))
    return row


def test_what_another_process_took_is_no_miss_of_the_plan() -> None:
    crowded, alone = (check_plan.outcome(oom_row(left)) for left in (0.5, 15.0))
    assert (crowded.verdict, alone.verdict) == ("does not fit", "fits")
    assert check_plan.problems([crowded]) == []
    assert check_plan.problems([alone]) == ["preflight-0123abcd was out of memory and is called fits"]
    unknown = check_plan.outcome(oom_row(None))
    assert unknown.reason == "out of memory, and what other processes left of the device is not known"
    assert check_plan.problems([unknown]) == []


def test_the_refusal_names_what_else_runs_on_the_device() -> None:
    run = load(["experiment=licences_smollm135m"])
    found = measured(doing="step 1 of 4", out_of_memory=True, left=2 * GIB)
    (line,) = problems(PLAN, comparisons(run, PLAN, found), found)
    assert line.endswith(
        "10.00 of 16.00 GiB, and what else runs there leaves 2.00; end that, or take another device"
    )


def test_a_bug_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="inconsistent"), noting_out_of_memory(measured(), CPU):
        torch.zeros(2) @ torch.zeros(3)


@pytest.mark.parametrize(("packing", "expected"), [(False, [0, 1]), (True, [2, 3])])
def test_every_micro_batch_is_the_largest_of_the_run(packing: bool, expected: list[int]) -> None:
    rows = [Encoded([1] * tokens, [IGNORE] * tokens) for tokens in (9, 1, 6, 6)]
    data = TrainingRows(rows, [2, 3, 0, 1], {"steps": 1, "tokens": 22}, list("abcd"))
    found = longest_rows(data, TrainConfig(global_batch=4, micro_batch=2, packing=packing), steps=3)
    assert found.order == 2 * 3 * expected  # 2 x 9 with padding, 6 + 6 without
    assert found.counts["steps"] == 3


def test_a_plan_can_cite_what_was_measured(tmp_path: Path) -> None:
    paths = f"paths.artifacts_root={tmp_path}"
    run = load(["experiment=licences_smollm135m", paths])
    assert not calibration.notes(run)
    for peak in (10, 7, None):
        found = measured(step_s=[9.0, 4.0], allocated=peak and peak * GIB, out_of_memory=peak is None)
        calibration.append(run.paths, calibration.row_of(run, "0123abcd", PLAN, found))
    (line,) = calibration.notes(run)
    assert line.startswith(
        "measured by 2 preflights of smollm135m on cpu: their memory was predicted at most -20.0%"
    )
    assert line.endswith("the last ran 250 tokens/s at 2 rows of 500 tokens")
    assert not calibration.notes(load(["experiment=licences_smollm135m", paths, "hardware=a100_80gb"]))


def test_a_row_gives_back_its_settings_and_no_private_key_of_the_model(tmp_path: Path) -> None:
    run = load(["experiment=licences_smollm135m"])
    settings = Settings({"hidden_size": 64, "_name_or_path": "/secret"}, 2, 500, targets=("Wqkv", "out"))
    row = json.loads(json.dumps(calibration.row_of(run, "0123abcd", PLAN, Measured("a device", settings, 1))))
    assert published_runs.settings_of(row) == Settings({"hidden_size": 64}, 2, 500, targets=("Wqkv", "out"))
    assert "/secret" not in json.dumps(row)
    row["settings"]["gone"] = 1
    with pytest.raises(published_shapes.UnexpressedError, match="another version"):
        published_runs.settings_of(row)


def test_a_row_waits_until_another_one_is_written(tmp_path: Path) -> None:
    paths, path = PathsConfig("", "", str(tmp_path)), tmp_path / calibration.FILE
    with ThreadPoolExecutor(1) as pool:
        with path.open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            waiting = pool.submit(calibration.append, paths, {"id": 2})
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            other.write('{"id": 1}\n')
        waiting.result(timeout=30)
    assert [row["id"] for row in calibration.read(paths)] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / calibration.FILE).write_text('{"id": 1}\n{"id"\n')
    with pytest.raises(DataError, match=r"calibration.jsonl:2 is not JSON; delete that line"):
        list(calibration.read(PathsConfig("", "", str(tmp_path))))


@pytest.mark.parametrize("setting", ["memory_margin", "speed_margin"])
def test_a_margin_is_a_share(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"plan.{setting}=1.5 must lie between 0 and 1"):
        load(["experiment=licences_smollm135m", f"plan.{setting}=1.5"])
