"""`make status` beside a real training process, while it runs and after it was killed."""

import fcntl
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from team import ROOT, Team

pytestmark = pytest.mark.pipeline


def status(team: Team, *overrides: str) -> list[str]:
    done = team.stage("status", *overrides)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_stage_of_a_walk_is_finished_and_fresh(walked: tuple[Team, str]) -> None:
    done = walked[0].make("status", "CONF=tiny")
    lines = done.stdout.splitlines()
    stages = ["prepare", "plan", "train", "eval", "export", "serve-check"]
    assert [line.split()[0] for line in lines] == stages
    assert all(": finished 2" in line for line in lines[:-1])
    assert lines[-1].endswith("not made yet; run `make serve-check CONF=tiny`")
    assert "STALE" not in done.stdout


def test_other_settings_make_it_stale_and_name_the_key(walked: tuple[Team, str]) -> None:
    lines = status(walked[0], "train.lr=1e-4", "data.seed=3")
    assert lines[0].endswith("STALE: data.seed=3 today, but 0")
    assert lines[2].endswith("STALE: train.lr=0.0001 today, but 0.01")
    assert "STALE" not in lines[3]


def test_an_input_that_was_made_anew_is_named(breakable: Team) -> None:
    old = breakable.current("data", "tiny_rows").name
    assert breakable.stage("prepare", "data.seed=3").returncode == 0
    lines = status(breakable, "data.seed=3")
    assert "STALE" not in lines[0]
    assert lines[2].endswith(f"STALE: made from data {old}, which is not the current one")


def test_before_the_first_command(tmp_path: Path, walked: tuple[Team, str]) -> None:
    lines = status(walked[0], f"paths.artifacts_root={tmp_path / 'none'}")
    assert lines[0] == "prepare     not made yet; run `make prepare CONF=tiny`"
    assert not (tmp_path / "none").exists()


def test_a_run_is_seen_while_it_runs_and_after_it_was_killed(breakable: Team) -> None:
    process = breakable.start("train", "train.max_steps=5000", "train.log_every_steps=1")
    try:
        running = wait_for_step(breakable, process)
    finally:
        process.kill()
        process.wait()
    found = re.search(
        r"running, step (\d+) of 5000, loss ([\d.]+), [\d,]+ tokens/s, memory 0\.\d of \d\.\d GiB "
        r"planned, .* left, no checkpoint yet, last wrote \d+ s ago",
        running,
    )
    assert found, running
    killed = training_line(breakable, "5000")
    assert re.search(r"interrupted, step \d+ of 5000, loss .*last wrote \d+ s ago", killed)
    assert " left" not in killed
    folder = Path(killed.split()[1].rstrip(":"))
    (folder / "checkpoints" / "step-00000002").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000002" / "checkpoint.json").write_text("{}")
    assert ", checkpoint of step 2, " in training_line(breakable, "5000")


def wait_for_step(team: Team, process: subprocess.Popen[bytes]) -> str:
    """The line of a run that has logged a step; before that it must say that it runs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "training ended"
        lines = [line for line in status(team) if line.startswith("train ") and ": running" in line]
        if lines and ", step " in lines[0]:
            return lines[0]
        time.sleep(0.5)
    raise AssertionError("no step was logged")


def training_line(team: Team, steps: str) -> str:
    (line,) = (line for line in status(team) if line.startswith("train ") and f" of {steps}" in line)
    return line


def test_a_run_that_has_not_logged_yet(breakable: Team) -> None:
    folder = breakable.current("adapters").with_name("00000000")
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status(breakable)[3].endswith("00000000: running")
        (folder / "log.jsonl").write_text("")
        assert "how many steps it takes is not known before its first one" in status(breakable)[3]
        header = {"total_steps": 30, "total_tokens": 100, "planned_peak_gib": None}
        (folder / "log.jsonl").write_text(json.dumps(header) + "\n")
        assert "running, no step of 30 logged yet, no checkpoint yet" in status(breakable)[3]
    assert "interrupted, no step of 30 logged yet" in status(breakable)[3]


def test_asking_is_quick_and_loads_no_torch(walked: tuple[Team, str]) -> None:
    code = (
        "import sys, runpy\nsys.argv = ['status', 'experiment=tiny']\n"
        "try: runpy.run_module('finetune.status', run_name='__main__')\nexcept SystemExit as end: assert not end.code\n"
        "print('heavy:', *({'torch', 'transformers', 'wandb', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=walked[0].environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "heavy:", done.stderr
