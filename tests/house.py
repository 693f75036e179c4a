"""A team's folder whose stages run in this process, and what a test looks at in its runs."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from data_prep.prepare import prepare
from finetune import train
from finetune.stage import stage

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "train.max_steps=14 train.global_batch=4 train.micro_batch=2 train.lora.dropout=0.1 train.optimizer=adamw_8bit "
    "train.log_every_steps=3 train.save_every_steps=2 tracking.mode=disabled"
).split()


@dataclass
class House:
    """A team's folder, and its stages run in this process."""

    folder: Path

    @classmethod
    def built(cls, folder: Path, model_folder: Path) -> "House":
        """With prepared rows and nothing trained."""
        house = cls(folder)
        tiny.write_conf(folder / "conf")
        (folder / "data").mkdir()
        tiny.write_rows(folder / "data/rows.jsonl")
        shutil.copytree(model_folder, folder / "models/tiny_llama")
        house.prepare()
        return house

    def set_aside(self, name: str) -> Path:
        """The finished run, moved to where the next one does not find it."""
        (self.folder / "artifacts/adapters/tiny/current").unlink()
        return self.run.rename(self.folder / name)

    def argv(self, *more: str) -> list[str]:
        return ["experiment=tiny", f"paths.runs={self.folder / 'runs'}", *SETTINGS, *more]

    def train(self, *more: str) -> int:
        with self.at_home():
            return stage("train", train.run, self.argv(*more))

    def prepare(self) -> None:
        with self.at_home():
            assert stage("prepare", prepare, self.argv()) == 0

    @contextmanager
    def at_home(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for key, value in tiny.environment(self.folder).items():
                patch.setenv(key, value)
            yield

    def in_a_process(self, code: str, *more: str) -> "subprocess.CompletedProcess[str]":
        """Training by a script of its own, for what must not happen to this process."""
        return subprocess.run(
            [sys.executable, "-c", code, *self.argv(*more)],
            cwd=ROOT,
            env=os.environ | tiny.environment(self.folder),
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def run(self) -> Path:
        """The one run folder that was trained or begun."""
        [folder] = [path for path in (self.folder / "artifacts/adapters/tiny").iterdir() if path.is_dir()]
        return folder

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.run / "checkpoints").iterdir())


def adapter(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[dict[str, float]]:
    rows = log_of(folder)
    return [
        {key: row[key] for key in ("step", "train/loss", "train/tokens")}
        for row in rows
        if "train/loss" in row
    ]


def problem(text: str) -> str:
    """The one line that a person reads, behind the progress bars of a library that was imported before the stage."""
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


@contextmanager
def sent_when(condition: Callable[[], bool], number: int) -> Iterator[None]:
    """A signal to this process as soon as something holds."""

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            if condition():
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def at_call(owner: object, function: str, number: int, act: Callable[[], object]) -> Iterator[list[str]]:
    """Do something just before a function is called the so-manieth time; gives the calls, which go on being counted."""
    real, calls = getattr(owner, function), list[str]()

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(function)
        if len(calls) == number:
            act()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, function, watched)
        yield calls
