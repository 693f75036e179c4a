"""A run that is stopped or short of memory while it validates ends as the run that was left alone."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from house import House, adapter, at_call, log_of, problem

from finetune import generate, training_run, validating, validation

LOSS = (
    "train.max_steps=6",
    "train.log_every_steps=2",
    "train.save_every_steps=4",
    "train.validate_every_steps=2",
    "train.patience=1",
    "train.min_delta=100",  # nothing is a gain after the first, so the run ends with its second validation
)
MATCH = (
    "train.max_steps=4",
    "train.log_every_steps=1",
    "train.save_every_steps=3",
    "train.validate_every_steps=2",
    "train.best_metric=exact_match",
)
RUNS = {"loss": LOSS, "match": MATCH}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> House:
    """Prepared rows, and each of the runs undisturbed."""
    house = House.built(tmp_path_factory.mktemp("house"), tiny_model_folder)
    for name, settings in RUNS.items():
        assert house.train(*settings) == 0
        house.set_aside(name)
    return house


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock or the memory decides."""
    measured = ("started", "seconds", "train/tokens_per_s", "train/tokens_per_s_total", "train/mfu")
    left_out = (*measured, "train/peak_memory_gib", "train/peak_memory_over_plan")
    return [{key: value for key, value in row.items() if key not in left_out} for row in log_of(folder)]


def require_same(made: Path, alone: Path) -> None:
    assert adapter(made) == adapter(alone)
    assert rows_of(made) == rows_of(alone)


def asked(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("name", "place", "call", "step"),
    [
        ("loss", (validation, "_padded"), 1, 2),  # in the first of two batches, where nothing else is saved
        (
            "loss",
            (validating, "validation_loss"),
            2,
            4,
        ),  # before the first batch of the one that ends the run
        ("match", (generate, "greedy_batch"), 1, 2),
        ("match", (validating, "exact_match"), 2, 4),  # after the last step
    ],
)
def test_a_run_stopped_in_a_validation_repeats_it_whole(
    name: str,
    place: tuple[object, str],
    call: int,
    step: int,
    house: House,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = RUNS[name]
    with at_call(*place, call, asked(signal.SIGTERM)) as calls:
        assert house.train(*settings) == 75
    assert len(calls) == call  # no further batch
    assert f"stopped after step {step} of" in capsys.readouterr().err
    assert house.checkpoints()[-1] == f"step-{step:08d}"
    assert not [row for row in log_of(house.run) if row.get("step") == step]
    assert house.train(*settings) == 0
    require_same(house.set_aside(f"stopped-{place[1]}"), house.folder / name)


def test_it_may_be_stopped_again_and_killed_after_and_no_row_is_doubled(house: House) -> None:
    """The checkpoint is before the validation of its step, the log of a process that went on from it is after."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with at_call(validation, "_padded", 1, asked(number)):
            assert house.train(*LOSS) == 75
    with at_call(training_run.ExactTrainer, "training_step", 1, failing), pytest.raises(RuntimeError):
        house.train(*LOSS)
    assert [row["step"] for row in log_of(house.run) if "val/loss" in row] == [2]
    assert house.train(*LOSS) == 0
    require_same(house.set_aside("doubled"), house.folder / "loss")


def failing() -> None:
    raise RuntimeError


TWICE = """
import os, signal, sys
from finetune import train, validation
from finetune.stage import stage

def twice(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)

validation._padded = twice
sys.exit(stage("train", train.run, sys.argv[1:]))
"""


def test_a_second_signal_in_a_validation_stops_at_once(house: House) -> None:
    assert house.in_a_process(TWICE, *LOSS).returncode == 130
    assert house.train(*LOSS) == 0
    require_same(house.set_aside("twice"), house.folder / "loss")


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from finetune import generate, train, validation
from finetune.stage import stage

def limited(*args):
    calls.append(args)
    if len(calls) > TIMES:
        return real(*args)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
    try:
        torch.empty(2**28, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

calls, real = [], MODULE.FUNCTION
MODULE.FUNCTION = limited
sys.exit(stage("train", train.run, sys.argv[1:]))
"""


def short(module: str, function: str, times: int) -> str:
    """A training whose first so many calls of a function find no memory, and torch says so."""
    code = SHORT_OF_MEMORY.replace("MODULE", module).replace("FUNCTION", function)
    return code.replace("TIMES", str(times))


@pytest.mark.parametrize(
    ("name", "place"), [("loss", "validation._padded"), ("match", "generate.greedy_batch")]
)
def test_a_validation_that_does_not_fit_halves_its_batch_and_gives_the_same_numbers(
    name: str, place: str, house: House
) -> None:
    done = house.in_a_process(short(*place.split("."), times=1), *RUNS[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2: out of memory validating 2 rows at once; again with 1" in done.stdout
    made, alone = house.set_aside(f"short-{name}"), house.folder / name
    assert adapter(made) == adapter(alone)
    changes = [row for row in log_of(made) if "validation_batch" in row]
    assert changes == [{"step": 2, "out_of_memory_at_validation_batch": 2, "validation_batch": 1}]
    validated = [[row for row in log_of(folder) if "val/loss" in row] for folder in (made, alone)]
    for now, before in zip(*validated, strict=True):
        assert now["step"] == before["step"]
        assert now["val/loss"] == pytest.approx(before["val/loss"], abs=5e-3)  # bf16, as of any batch
        assert now.get("val/exact_match") == before.get("val/exact_match")


def test_one_row_that_does_not_fit_a_validation_is_the_end_and_nothing_is_repeated(house: House) -> None:
    done = house.in_a_process(short("validation", "_padded", times=2), *LOSS)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "step 2: out of memory validating one row at a time" in problem(done.stderr)
    assert house.checkpoints() == ["step-00000002"]
    assert house.train(*LOSS) == 0
    made, alone = house.set_aside("one"), house.folder / "loss"
    assert adapter(made) == adapter(alone)
    assert [row["step"] for row in log_of(made) if "val/loss" in row] == [2, 4]


def test_nothing_to_validate_on_is_found_before_the_first_step(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(house.folder, tmp_path / "house")
    bare = House(tmp_path / "house")
    [data] = (bare.folder / "artifacts/data/tiny_rows").glob("*/val.jsonl")
    data.write_text("")
    made = json.loads((data.parent / "manifest.json").read_text())
    empty = {"path": "val.jsonl", "bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    made["files"] = [empty if item["path"] == "val.jsonl" else item for item in made["files"]]
    (data.parent / "manifest.json").write_text(json.dumps(made))
    assert bare.train(*LOSS) == 2
    assert "val.jsonl holds no row to validate on" in problem(capsys.readouterr().err)
    assert not [row for row in log_of(bare.run) if "step" in row]
