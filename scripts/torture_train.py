"""Training runs killed again and again: each must end with the adapter of the run that was left alone.

    .venv/bin/python scripts/torture_train.py                     # all of it
    .venv/bin/python scripts/torture_train.py --kills 4 --only tiny_8bit --operations tiny_8bit --every 5

Five runs, two of them the demo's model; with dropout, accumulation, 8-bit AdamW, validation and early stopping.
Each is trained undisturbed, then: `--kills` times SIGKILL and as often SIGTERM at random moments, shared over the
runs; and on two tiny runs SIGKILL at every `--every`-th create, rename and delete below its run folder. After each kill
the same command goes on. Compared are the bytes of the adapter's files. Any of these operations that is not made by
finetune.artifacts fails too. Kills are real, processes are real; only imports are shared, by a fork server.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

COMMON = (
    "train.save_every_steps=2 train.log_every_steps=1 train.lora.dropout=0.1 tracking.mode=disabled".split()
)
DEMO = "train.max_steps=6 train.global_batch=4 train.micro_batch=2 train.optimizer=adamw_8bit".split()
TINY = "train.max_steps=8 train.global_batch=4".split()
RUNS = {
    "tiny_8bit": ("tiny", [*TINY, "train.micro_batch=2", "train.optimizer=adamw_8bit"]),
    "tiny_32bit": ("tiny", [*TINY, "train.micro_batch=4", "train.schedule=linear"]),
    "tiny_validated": (
        "tiny",
        [
            *TINY,
            "train.micro_batch=1",
            "tracking.mode=offline",
            "train.validate_every_steps=2",
            "train.patience=2",
        ],
    ),
    "demo": ("licences_smollm135m", DEMO),
    "demo_recomputed": ("licences_smollm135m", [*DEMO, "train.checkpointing=full", "train.seed=1"]),
}
"""Each run's experiment and settings."""
FINISHED, PREEMPTED = 0, 75
FOLDERS = {"prepare": "data", "train": "adapters", "export": "exports"}
"""Where each stage that may be tortured keeps its runs."""
PRELOADED = {"train": [], "export": ["finetune.export", "finetune.fidelity", "finetune.merge_auto"]}


@dataclass(frozen=True)
class Place:
    """Where the runs live: a team's private folder with the tiny model, and the demo's data."""

    folder: Path

    def runs(self, stage: str, experiment: str) -> Path:
        return self.folder / "artifacts" / FOLDERS[stage] / experiment


def argv_of(name: str, place: Place) -> list[str]:
    experiment, settings = RUNS[name]
    return [f"experiment={experiment}", f"paths.runs={place.folder / 'runs'}", *COMMON, *settings]


def child(module: str, argv: list[str], place: Place, log: Path, kill_at: int | None) -> None:
    """One stage in a process of its own; `kill_at`: the file operation that it does not survive."""
    import tiny

    os.environ.update(tiny.environment(place.folder))
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if kill_at is not None:
        watched = place.folder / "artifacts" / FOLDERS[module]
        sys.addaudithook(Operations(watched, kill_at, log.with_suffix(".operations")))
    os.chdir(ROOT)
    sys.exit(stage_of(module, argv))


def stage_of(module: str, argv: list[str]) -> int:
    from data_prep.prepare import prepare
    from finetune import export, train
    from finetune.stage import stage

    return stage(module, {"prepare": prepare, "train": train.run, "export": export.run}[module], argv)


class Operations:
    """Counts creates, renames and deletes below a folder, writes down each one and who made it, dies at one."""

    EVENTS = frozenset("open os.rename os.remove os.rmdir os.mkdir os.link os.truncate".split())
    OURS = str(ROOT / "finetune/artifacts")

    def __init__(self, folder: Path, kill_at: int, record: Path) -> None:
        self.folder, self.kill_at, self.count = str(folder), kill_at, 0
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in self.EVENTS or not self._changes(event, arguments):
            return
        path = self._path(event, arguments)
        if not path.startswith(self.folder):
            return
        self.count += 1
        maker = "ours" if any(name.startswith(self.OURS) for name in _callers()) else "another"
        os.write(self.record, f"{maker} {event} {path}\n".encode())
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _path(event: str, arguments: tuple[Any, ...]) -> str:
        """The whole path: shutil.rmtree deletes by names below an open folder."""
        name, below = str(arguments[0]), arguments[1] if event in ("os.remove", "os.rmdir") else -1
        return name if below == -1 else str(Path(f"/proc/self/fd/{below}").readlink() / name)

    @staticmethod
    def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
        """Opening to read changes nothing, nor does making a folder that is there."""
        if event == "open":
            return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_CREAT | os.O_TRUNC))
        return event != "os.mkdir" or not Path(arguments[0]).is_dir()


def _callers() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]


class Torture:
    """The runs of one stage in one place, and what became of them; of a run the files in `compared` count."""

    def __init__(
        self, place: Place, seed: int, stage: str = "train", compared: Sequence[str] = ("adapter/*",)
    ) -> None:
        self.stage, self.compared = stage, compared
        self.place, self.chance = place, random.Random(seed)  # noqa: S311  (moments, not secrets)
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(
            [
                "finetune.train",
                "finetune.training_run",
                "finetune.plan.plan",
                "data_prep.prepare",
                *PRELOADED[stage],
            ]
        )
        self.log = place.folder / "torture.log"
        self.alone: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []

    def start(self, module: str, argv: list[str], kill_at: int | None = None) -> Any:
        process = self.server.Process(target=child, args=(module, argv, self.place, self.log, kill_at))
        process.start()
        return process

    def prepare(self, names: list[str]) -> None:
        """The prepared rows of the runs' experiments."""
        for experiment in dict.fromkeys(RUNS[name][0] for name in names):
            process = self.start(
                "prepare", [f"experiment={experiment}", f"paths.runs={self.place.folder / 'runs'}"]
            )
            process.join()
            self._require(process.exitcode == 0, f"prepare {experiment} exits {process.exitcode}")

    def run_alone(self, name: str) -> None:
        """The undisturbed run: what it makes, and how long it takes."""
        started = time.monotonic()
        process = self.start(self.stage, argv_of(name, self.place))
        process.join()
        self._require(process.exitcode == FINISHED, f"{name} undisturbed exits {process.exitcode}")
        self.seconds[name] = time.monotonic() - started
        self.alone[name] = self.made(name)
        self.reset(name)

    def made(self, name: str) -> dict[str, bytes]:
        folder = self.place.runs(self.stage, RUNS[name][0])
        run = folder / (folder / "current").read_text().strip()
        found = (path for pattern in self.compared for path in sorted(run.glob(pattern)))
        return {path.name: path.read_bytes() for path in found if path.is_file()}

    def reset(self, name: str) -> None:
        shutil.rmtree(self.place.runs(self.stage, RUNS[name][0]))

    def kill_at_random(self, name: str, number: signal.Signals, kills: int) -> None:
        """Kill one run so many times, at moments spread over its length, then let it end and compare."""
        hit = 0
        while hit < kills:
            started = time.monotonic()
            process = self.start(self.stage, argv_of(name, self.place))
            process.join(self.chance.uniform(0.1, 1.0) * self.seconds[name])
            if process.is_alive():
                os.kill(process.pid, number)
                process.join()
            code = process.exitcode
            allowed = {signal.SIGKILL: {-9}, signal.SIGTERM: {PREEMPTED, -15}}[
                number
            ]  # -15: before the stage began
            self._require(code in {FINISHED, *allowed}, f"{name} after {number.name} exits {code}")
            hit += code in allowed
            if code == FINISHED:
                self.seconds[name] = min(self.seconds[name], time.monotonic() - started)
                self.compare(name, f"{number.name} at random moments")
        self.finish(name, f"{number.name} at random moments")

    def kill_at_operations(self, name: str, every: int) -> int:
        """Kill a fresh run at every n-th operation in its folder, going on each time; how many there were."""
        count = at = 1
        while True:
            process = self.start(self.stage, argv_of(name, self.place), kill_at=at)
            process.join()
            count = self.note_operations(name)
            if process.exitcode == FINISHED:
                self.compare(name, f"the last of {count} operations")
                return count
            self._require(process.exitcode == -9, f"{name} killed at operation {at} exits {process.exitcode}")
            self.finish(name, f"SIGKILL at operation {at}")
            at += every

    def note_operations(self, name: str) -> int:
        lines = self.log.with_suffix(".operations").read_text().splitlines()
        for line in lines:
            problem = f"{name}: not through finetune.artifacts: {line.removeprefix('another ')}"
            if line.startswith("another ") and problem not in self.problems:
                self.problems.append(problem)
        return len(lines)

    def finish(self, name: str, what: str) -> None:
        process = self.start(self.stage, argv_of(name, self.place))
        process.join()
        self._require(process.exitcode == FINISHED, f"{name} after {what} exits {process.exitcode}")
        self.compare(name, what)

    def compare(self, name: str, what: str) -> None:
        same = self.made(name) == self.alone[name]
        print(f"  {name}, {what}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
        if not same:
            self.problems.append(f"{name}, {what}: other bytes")
        self.reset(name)

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise SystemExit(f"{what}:\n{self.log.read_text()[-3000:]}")


def make_place(folder: Path) -> Place:
    """A private folder with the tiny model, its rows and its settings."""
    import tiny

    tiny.build_model(folder / "models/tiny_llama")
    tiny.write_conf(folder / "conf")
    (folder / "data").mkdir()
    tiny.write_rows(folder / "data/rows.jsonl")
    return Place(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each signal, over all runs")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th operation; 0: at none")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--operations", nargs="*", choices=RUNS, default=["tiny_8bit", "tiny_validated"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(make_place(Path(folder)), arguments.seed)
        torture.prepare(arguments.only)
        for index, name in enumerate(arguments.only):
            torture.run_alone(name)
            print(f"{name}: {torture.seconds[name]:.1f} s undisturbed", flush=True)
            share = arguments.kills // len(arguments.only) + (index < arguments.kills % len(arguments.only))
            for number in (signal.SIGKILL, signal.SIGTERM):
                torture.kill_at_random(name, number, share)
        for name in arguments.operations if arguments.every else []:
            count = torture.kill_at_operations(name, arguments.every)
            print(f"{count} operations in a run folder of {name}")
    print("\n".join(torture.problems) or "every run ended with the adapter of the undisturbed one")
    return 1 if torture.problems else 0


if __name__ == "__main__":
    sys.exit(main())
