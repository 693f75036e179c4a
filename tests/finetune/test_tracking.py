"""Real offline runs, read back by wandb's own command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb

from finetune import tracking
from finetune.artifacts import Spec
from finetune.config import RunConfig, load
from finetune.errors import ConfigError, PreemptedError, RefusedError
from finetune.metrics import HISTORY, SUMMARY, JobType, unknown
from finetune.tracking import open_run, public, read_records

ROOT = Path(__file__).resolve().parents[2]
Argv = Callable[..., list[str]]


def spec_of(run: RunConfig) -> Spec:
    inputs = {"data": {"stage": "data", "name": "tiny_rows", "run": "072171a0", "content": "c" * 64}}
    return Spec("adapter", 1, run.name, {"model": run.model, "train": run.train}, inputs)


@pytest.fixture(autouse=True)
def fresh_service() -> Iterator[None]:
    """Each test with a wandb service of its own, as each stage has."""
    yield
    wandb.teardown()


def files(run: RunConfig) -> list[Path]:
    """The .wandb files in the order in which they were begun."""
    return sorted(Path(run.paths.runs).glob("wandb/offline-run-*/*.wandb"))


def steps(path: Path) -> list[int]:
    return [item["history"]["item"]["_step"] for item in read_records(path) if item["type"] == "history"]


def begun(path: Path) -> dict[str, Any]:
    return next(item["run"] for item in read_records(path) if item["type"] == "run")


def train(run: RunConfig, rows: Sequence[int], history: Sequence[int] | None = None) -> None:
    """A tracked training run that logs at these steps."""
    before = None if history is None else [{"total_steps": 30}, *map(row, history)]
    with open_run(run, JobType.train, spec_of(run), before) as tracker:
        for step in rows:
            tracker.log({"train/loss": 1 / step, "train/mfu": None}, step=step)
    wandb.teardown()  # the process ends
    time.sleep(1)  # wandb names folders by the second


def row(step: int) -> dict[str, Any]:
    return {"step": step, "seconds": 1.0, "train/loss": 1 / step, "train/mfu": None}


def test_a_run_has_its_group_its_job_and_what_made_it(argv: Argv) -> None:
    run = load(argv())
    with open_run(run, JobType.train, spec_of(run)) as tracker:
        tracker.log({"train/loss": 0.5, "train/mfu": None}, step=5)
        tracker.log({"count/steps": 30, "count/none": None})
    (path,) = files(run)
    found, name = begun(path), spec_of(run).run()
    assert (found["run_group"], found["job_type"], found["run_id"]) == ("tiny", "train", f"tiny-train-{name}")
    config = found["config"]["update"]
    assert (config["run"], config["resumed"], config["model_name"]) == (name, False, "tiny_llama")
    assert config["inputs"] == {"data": {"run": "072171a0", "content": "c" * 64}}
    assert config["train"]["lr"] == 0.01
    lora = config["train"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["dropout"], lora["targets"]) == (16, 32, 0.0, ["all-linear"])
    (history,) = (item["history"]["item"] for item in read_records(path) if item["type"] == "history")
    assert {key: history[key] for key in history if "/" in key} == {"train/loss": 0.5}
    assert any(
        item["summary"]["update"].get("count/steps") == 30
        for item in read_records(path)
        if item["type"] == "summary"
    )


def test_a_resumed_run_goes_on_under_its_id_and_repeats_no_step(argv: Argv) -> None:
    run = load(argv())
    train(run, [5, 10, 15])  # stopped after 15; the checkpoint is of 10
    train(run, [15, 20], history=[5, 10])
    train(run, [25, 30], history=[5, 10, 15, 20])
    assert {begun(path)["run_id"] for path in files(run)} == {f"tiny-train-{spec_of(run).run()}"}
    assert [begun(path)["config"]["update"]["resumed"] for path in files(run)] == [False, True, True]
    assert [steps(path) for path in files(run)] == [[5, 10, 15], [20], [25, 30]]


def test_a_run_that_begins_anew_sends_everything_again(argv: Argv) -> None:
    run = load(argv())
    train(run, [5, 10, 15])
    train(run, [])  # begun anew, and stopped before its first row
    train(run, [5, 10], history=[])
    assert [steps(path) for path in files(run)] == [[5, 10, 15], [], [5, 10]]


def test_what_a_kill_kept_from_wandb_is_sent_when_the_run_goes_on(argv: Argv, tmp_path: Path) -> None:
    code = tmp_path / "killed.py"
    code.write_text(
        "import os, signal, sys, time\n"
        "from finetune.config import load\n"
        "from finetune.artifacts import Spec\n"
        "from finetune.metrics import JobType\n"
        "from finetune.tracking import open_run\n"
        "run = load(sys.argv[1:])\n"
        "inputs = {'data': {'stage': 'data', 'name': 'tiny_rows', 'run': '072171a0', 'content': 'c' * 64}}\n"
        "spec = Spec('adapter', 1, run.name, {'model': run.model, 'train': run.train}, inputs)\n"
        "with open_run(run, JobType.train, spec) as tracker:\n"
        "    for step in (5, 10):\n"
        "        tracker.log({'train/loss': 1 / step}, step=step)\n"
        "    time.sleep(3)\n"
        "    for step in (15, 20, 25):\n"
        "        tracker.log({'train/loss': 1 / step}, step=step)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, code, *argv()], cwd=ROOT, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    run = load(argv())
    train(run, [25, 30], history=[5, 10, 15, 20])  # the checkpoint was of 20
    kept, sent = (steps(path) for path in files(run))
    assert kept[0] == 5
    assert kept + sent == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize(
    ("error", "code"), [(RefusedError("no"), 3), (PreemptedError("later"), 75), (KeyboardInterrupt(), 1)]
)
def test_how_the_run_ended_is_in_it(argv: Argv, error: BaseException, code: int) -> None:
    run = load(argv())
    with pytest.raises(type(error)), open_run(run, JobType.train, spec_of(run)):
        raise error
    assert read_records(files(run)[0])[-1]["exit"]["exit_code"] == code


def test_nothing_is_written_where_tracking_is_disabled(argv: Argv) -> None:
    run = load(argv("tracking.mode=disabled"))
    train(run, [1])
    assert not Path(run.paths.runs).exists()


@pytest.mark.parametrize("job_type", JobType)
def test_online_without_a_key_is_refused_before_anything_is_made(
    argv: Argv, job_type: JobType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    run = load(argv("tracking.mode=online", "tracking.key_from_env=MY_KEY"))
    with (
        pytest.raises(ConfigError, match="needs the environment variable MY_KEY") as error,
        open_run(run, job_type, spec_of(run)),
    ):
        pytest.fail("it opened")
    assert error.value.exit_code == 2
    assert not Path(run.paths.runs).exists()


def test_of_a_configuration_only_numbers_choices_and_listed_names_are_sent(argv: Argv) -> None:
    run = load(argv("data.system='a private sentence'", "train.mirror=s3://private/bucket"))
    data = public({"data": run.data})["data"]
    assert (data["name"], data["licence"], data["labels"]) == ("tiny_rows", "LicenseRef-test", 2)
    assert data["source"] == {"kind": "table"}
    assert data["split"] == {"val_fraction": 0.1, "test_fraction": 0.3, "max_component_fraction": 0.2}
    sent = json.dumps(
        public({key: getattr(run, key) for key in ("model", "data", "train", "eval", "export")})
    )
    assert not re.findall("private|notice|rows.jsonl|contract", sent)


def test_one_record_stands_for_one_artifact(argv: Argv) -> None:
    """What online runs link; offline wandb refuses to use an artifact."""
    made = tracking.fingerprint({"stage": "data", "name": "tiny_rows", "run": "072171a0"})
    used = tracking.fingerprint({"stage": "data", "name": "tiny_rows", "run": "072171a0", "content": "c"})
    other = tracking.fingerprint({"stage": "data", "name": "tiny_rows", "run": "11111111", "content": "c"})
    source = tracking.fingerprint({"stage": "source", "name": "/secret/x", "run": "", "content": "d" * 64})
    assert (made.name, made.type, used.metadata) == ("data-tiny_rows-072171a0", "data", {"content": "c"})
    assert made.digest == used.digest != other.digest
    assert source.name == "source-dddddddd"


def test_every_name_is_explained_in_the_guide_and_no_other_is() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    table = text[text.index("## Tracking") :]
    named = {name for name in re.findall(r"`([a-z]+/[^`]+)`", table) if not name.startswith("runs/")}
    assert named == {*HISTORY, *(name for names in SUMMARY.values() for name in names)}


def test_a_name_that_is_none_of_these_is_found() -> None:
    assert unknown(["train/loss", "val/loss", "count/steps"], JobType.train) == set()
    assert unknown(["train/loss"], JobType.eval) == {"train/loss"}
    assert unknown(["eval/clause/svm/macro_f1", "eval/clause/svm", "eval/verdict"], JobType.eval) == {
        "eval/clause/svm"
    }
