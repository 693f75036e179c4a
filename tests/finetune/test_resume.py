"""A run that is stopped, killed or short of memory ends with the adapter of the run that was left alone."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from finetune import train
from finetune.stage import stage

SETTINGS = (
    "train.max_steps=8 train.global_batch=4 train.micro_batch=2 train.lora.dropout=0.1 train.optimizer=adamw_8bit "
    "train.log_every_steps=3 train.save_every_steps=2 tracking.mode=disabled"
).split()

Argv = Callable[..., list[str]]


@pytest.fixture
def prepared(argv: Argv) -> Argv:
    assert stage("prepare", prepare, argv()) == 0
    return lambda *more: argv(*SETTINGS, *more)


def adapter_of(private: Path, **environment: str) -> Path:
    [current] = (private / "artifacts/adapters").glob("*/current")
    return current.parent / current.read_text().strip()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}


def rows_of(log: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {key: row[key] for key in ("step", "train/loss", "train/tokens")}
        for row in rows
        if "train/loss" in row
    ]


def send_when(condition: Callable[[], bool], number: int) -> threading.Thread:
    """A signal to this process as soon as something holds."""

    def watch() -> None:
        while not condition():
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_adapter(
    number: int,
    private: Path,
    prepared: Argv,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert stage("train", train.run, prepared()) == 0
    alone = adapter_of(private)
    log, files = rows_of(alone / "log.jsonl"), files_of(alone)
    alone.rename(private / "alone")

    checkpoints = alone / "checkpoints"
    sender = send_when(lambda: (checkpoints / "step-00000004/checkpoint.json").is_file(), number)
    assert stage("train", train.run, prepared()) == 75
    sender.join()
    stopped = capsys.readouterr().err
    assert "stopped after step" in stopped
    assert "the same command goes on from there" in stopped
    assert stage("train", train.run, prepared()) == 0
    assert "going on from step" in capsys.readouterr().out
    assert files_of(alone) == files
    assert rows_of(alone / "log.jsonl") == log
    assert not checkpoints.exists()
