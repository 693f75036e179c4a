"""A team with private conf, data and models, and the commands it runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tiny

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "prepare": "data_prep.prepare",
    "plan": "finetune.plan",
    "train": "finetune.train",
    "eval": "eval.evaluate",
    "export": "finetune.export",
    "status": "finetune.status",
}


@dataclass
class Team:
    """A team's private folder, and the commands run in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | tiny.environment(self.folder)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`make …` as a person types it, its runs/ in the private folder."""
        more = f"ARGS=paths.runs={self.folder / 'runs'}"
        return self._run(["make", "--no-print-directory", *arguments, more])

    def stage(self, name: str, *overrides: str, experiment: str = "tiny") -> subprocess.CompletedProcess[str]:
        """One stage without make, whose exit code make would replace by 2."""
        return self._run([*self._stage(name, experiment), *overrides])

    def start(self, name: str, *overrides: str) -> subprocess.Popen[bytes]:
        """One stage that runs on while the test goes on."""
        quiet = subprocess.DEVNULL
        command = [*self._stage(name), *overrides]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=quiet, stderr=quiet)

    def _stage(self, name: str, experiment: str = "tiny") -> list[str]:
        runs = f"paths.runs={self.folder / 'runs'}"
        return [sys.executable, "-m", MODULES[name], f"experiment={experiment}", runs]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=600
        )

    def current(self, kind: str, name: str = "tiny") -> Path:
        """The folder that `current` names."""
        parent = self.folder / "artifacts" / kind / name
        return parent / (parent / "current").read_text().strip()

    def copy(self, to: Path) -> "Team":
        """The same team somewhere else, to break things."""
        shutil.copytree(self.folder, to, symlinks=True)
        return Team(to)


def new_team(folder: Path) -> Team:
    tiny.write_conf(folder / "conf")
    tiny.build_model(folder / "models" / "tiny_llama")
    (folder / "data").mkdir()
    tiny.write_rows(folder / "data" / "rows.jsonl")
    return Team(folder)
