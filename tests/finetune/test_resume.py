"""A run that is stopped, damaged or short of memory ends with the adapter of the run that was left alone."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from house import House, adapter, log_of, losses, problem, sent_when

from finetune.checkpoint import sealed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> House:
    """Prepared rows, `alone`, an undisturbed run, and the same run stopped by SIGTERM after step 4 or soon after."""
    house = House.built(tmp_path_factory.mktemp("house"), tiny_model_folder)
    assert house.train() == 0
    house.set_aside("alone")
    with sent_when(
        lambda: bool(list(house.folder.glob("artifacts/adapters/tiny/*/checkpoints/step-*4"))), signal.SIGTERM
    ):
        assert house.train() == 75
    return house


@pytest.fixture
def stopped(house: House, tmp_path: Path) -> House:
    """The stopped run, to go on with or to damage."""
    shutil.copytree(house.folder, tmp_path / "house")
    return House(tmp_path / "house")


def test_a_stopped_run_goes_on_to_the_same_adapter_and_log(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    second = stopped.run / "checkpoints/step-00000006/checkpoint.json"
    with sent_when(second.is_file, signal.SIGINT):
        assert stopped.train("train.save_every_steps=1") == 75
    said = capsys.readouterr()
    assert "going on from step" in said.out
    assert "of 14; the same command goes on from there" in said.err
    assert stopped.train() == 0
    assert adapter(stopped.run) == adapter(stopped.folder / "alone")
    assert losses(stopped.run) == losses(stopped.folder / "alone")
    assert not (stopped.run / "checkpoints").exists()


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newest = stopped.checkpoints()
    path = stopped.run / "checkpoints" / newest / "states.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert stopped.train() == 0
    out = capsys.readouterr().out
    assert f"{newest} is damaged (states.pt is not as it was written); trying the one before" in out
    assert f"going on from step {int(older[-8:])}," in out
    assert adapter(stopped.run) == adapter(stopped.folder / "alone")


def test_other_library_versions_are_refused_and_nothing_is_lost(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stopped.checkpoints()
    for name in before:
        record = stopped.run / "checkpoints" / name / "checkpoint.json"
        written = json.loads(record.read_text())
        record.write_text(json.dumps(sealed(written | {"versions": written["versions"] | {"peft": "0.1"}})))
    assert stopped.train() == 2
    line = problem(capsys.readouterr().err)
    assert "was written with peft 0.1, now" in line
    assert stopped.checkpoints() == before


def test_a_new_machine_goes_on_from_the_mirror(stopped: House, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = f"train.mirror=file://{stopped.folder / 'mirror'}"
    after_six = stopped.run / "checkpoints/step-00000006"
    with sent_when(after_six.is_dir, signal.SIGTERM):
        assert stopped.train(mirror) == 75
    shutil.rmtree(stopped.run)
    assert stopped.train(mirror) == 0
    assert "fetching step-0000000" in capsys.readouterr().out
    assert adapter(stopped.run) == adapter(stopped.folder / "alone")
    assert losses(stopped.run) == losses(stopped.folder / "alone")


def test_a_loss_that_is_no_number_stops_before_the_weights_are_lost(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped.run)
    # the first step leaves weights of some 1e37, whose products have no number
    settings = ("train.lr=1", "train.weight_decay=3e38", "train.warmup_fraction=0")
    assert stopped.train(*settings, "train.save_every_steps=1") == 3
    line = problem(capsys.readouterr().err)
    assert "is not a number, found before the weights moved; checkpoints are of earlier steps" in line
    good = int(line.partition("step ")[2].partition(":")[0]) - 1
    assert stopped.checkpoints()[-1] == f"step-{good:08d}"
    named = line.partition("the rows ")[2].split(", ")
    rows = (stopped.folder / "artifacts/data").glob("*/*/train.jsonl")
    known = {json.loads(row)["id"] for path in rows for row in path.read_text().splitlines()}
    assert set(named) <= known
    assert len(named) in (2, 4)


def test_a_full_disk_keeps_the_checkpoints_that_are_there(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = stopped.run / "checkpoints"
    kept = stopped.checkpoints()
    shutil.move(checkpoints, stopped.folder / "saved")
    checkpoints.mkdir()
    used = sum(path.stat().st_size for path in (stopped.folder / "saved").rglob("*"))
    size = f"size={used // 1024 + 60}k"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", checkpoints], capture_output=True
    ).returncode:
        pytest.skip("mounting a small tmpfs is not allowed on this machine")
    try:
        shutil.copytree(stopped.folder / "saved", checkpoints, dirs_exist_ok=True)
        assert stopped.train() == 5
        line = problem(capsys.readouterr().err)
        assert "No space left on device; free some space" in line
        assert stopped.checkpoints() == kept
        subprocess.run(["mount", "-o", "remount,ro", checkpoints], check=True)
        assert stopped.train() == 5
        assert "it is read-only" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", checkpoints], check=True)


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path

def hook(event, arguments):
    if event != "open" or not str(arguments[0]).endswith("log.jsonl") or arguments[1] != "a":
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + 2**20 * MIB if not attempts else resource.RLIM_INFINITY  # the first attempt alone is short
    attempts.append(limit)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

attempts = []
from finetune import train
from finetune.stage import stage
sys.addaudithook(hook)
sys.exit(stage("train", train.run, sys.argv[1:]))
"""


def test_a_micro_batch_that_does_not_fit_halves_and_trains_the_same_rows(
    house: House, tmp_path: Path
) -> None:
    shutil.copytree(house.folder, tmp_path / "house")
    short = House(tmp_path / "house")
    shutil.rmtree(short.run)
    settings = [
        "train.max_steps=1",
        "train.global_batch=16",
        "train.lora.dropout=0",
        "train.max_tokens=512",
        "train.log_every_steps=1",
    ]
    use_long_rows(short)
    code = SHORT_OF_MEMORY.replace("MIB", "200")
    done = short.in_a_process(code, *settings, "train.micro_batch=16")
    assert done.returncode == 0, done.stdout + done.stderr
    log = [json.loads(line) for line in (short.run / "log.jsonl").read_text().splitlines()]
    [change] = [row for row in log if "out_of_memory_at_micro_batch" in row]
    assert change == {"step": 0, "out_of_memory_at_micro_batch": 16, "micro_batch": 8}
    found = adapter(short.run)
    shutil.rmtree(short.run)
    assert short.train(*settings, "train.micro_batch=8") == 0
    assert adapter(short.run) == found


def use_long_rows(house: House) -> None:
    """Prepare rows of some 450 tokens, whose attention fills memory, in place of the short ones."""
    path = house.folder / "data/rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [row | {"text": f"{row['text']} " * 6} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    house.prepare()


TWICE = """
import os, signal, sys, threading, time
from pathlib import Path
from finetune import train
from finetune.stage import stage

def send():
    while not list(Path(os.environ["ARTIFACTS_ROOT"]).glob("adapters/tiny/*/checkpoints/step-*6")):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=send, daemon=True).start()
sys.exit(stage("train", train.run, sys.argv[1:]))
"""


def test_a_second_signal_stops_at_once_without_damage(stopped: House) -> None:
    assert stopped.in_a_process(TWICE).returncode == 130
    assert stopped.train() == 0
    assert adapter(stopped.run) == adapter(stopped.folder / "alone")


VALIDATED = (
    "train.validate_every_steps=1",
    "train.patience=2",
    "train.min_delta=100",  # nothing is a gain after the first
    "train.save_every_steps=1",
)


def test_the_best_adapter_is_kept_and_a_run_that_stopped_early_does_not_go_on(
    stopped: House, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped.run)
    assert stopped.train(*VALIDATED) == 0
    alone = stopped.run.rename(stopped.folder / "validated")
    values = {row["step"]: row["val/loss"] for row in log_of(alone) if "val/loss" in row}
    assert sorted(values) == [1, 2, 3]
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["facts"]["best"] == {"metric": "validation_loss", "step": 1, "value": values[1]}
    assert manifest["counts"]["steps_taken"] == 3

    last = stopped.folder / f"artifacts/adapters/tiny/{alone.name}/checkpoints/step-00000003"
    with sent_when((last / "checkpoint.json").is_file, signal.SIGTERM):
        ended = stopped.train(*VALIDATED)
    assert ended in (75, 0)  # the signal may find the run at its end
    capsys.readouterr()
    assert stopped.train(*VALIDATED) == 0
    assert adapter(stopped.run) == adapter(alone)
    assert max(row["step"] for row in log_of(stopped.run) if "step" in row) == 3
