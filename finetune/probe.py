"""How a model behaves on the test set: prompt ids, answer logits, greedy answers; here or in a fresh process."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.artifacts import atomic
from finetune.artifacts.folders import CHECKPOINTS
from finetune.artifacts.manifest import plain
from finetune.chat import Encoded, Renderer
from finetune.config import RunConfig, recorded
from finetune.config.model import ModelConfig
from finetune.config.plan import HardwareConfig
from finetune.errors import MachineError
from finetune.generate import answer_logits, greedy
from finetune.model import Loaded, load_plain
from finetune.rows import read_rows
from finetune.stage import guarded


@dataclass(frozen=True)
class Probe:
    """One model's behaviour on the test set: prompt ids, answer logits [positions, vocabulary], greedy ids."""

    prompts: list[list[int]]
    logits: Tensor
    answers: list[list[int]]


def encode(rows: Sequence[dict[str, Any]], renderer: Renderer) -> list[Encoded]:
    """The rows teacher-forced on their gold answers."""
    return [renderer.row(row["messages"], row["target"]) for row in rows]


def logits_of(loaded: Loaded, encoded: Sequence[Encoded], batch_rows: int, label: str) -> Tensor:
    """Answer logits of all rows in row order, in the model's own precision."""
    found = dict(answer_logits(loaded, encoded, batch_rows, label))
    return torch.cat([found[index] for index in range(len(encoded))])


def probe(
    loaded: Loaded, rows: Sequence[dict[str, Any]], batch_rows: int, max_new_tokens: int, label: str
) -> Probe:
    """Prompt ids, answer logits and greedy answers of one model."""
    prompts = [loaded.renderer.prompt_ids(row["messages"]) for row in rows]
    logits = logits_of(loaded, encode(rows, loaded.renderer), batch_rows, f"{label}: logits")
    answers = greedy(loaded, prompts, batch_rows, max_new_tokens, f"{label}: answers")
    return Probe(prompts, logits, [list(answer.ids) for answer in answers])


def probe_fresh(folder: Path, rows_file: Path, run: RunConfig, count: int | None = None) -> Probe:
    """The exported folder on the first `count` rows, loaded by a process of its own that knows nothing but its files.

    Raises MachineError where that process fails; its own line says why.
    """
    with _scratch(folder) as scratch:
        request = {
            "folder": str(folder),
            "rows": str(rows_file),
            "count": count,
            "model": plain(run.model),
            "hardware": plain(run.hardware),
            "batch_rows": run.eval.batch_rows,
            "max_new_tokens": run.eval.max_new_tokens,
        }
        command = [sys.executable, "-m", "finetune.probe", json.dumps(request), str(scratch)]
        if subprocess.run(command).returncode:
            raise MachineError(f"a fresh process could not load and run {folder}; its error stands above")
        return _read_probe(scratch)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Where the fresh process leaves what it found: what a killed run leaves there goes with the checkpoints."""
    scratch = folder / CHECKPOINTS / "probe"
    atomic.remove(scratch)
    atomic.make_folder(scratch)
    try:
        yield scratch
    finally:
        atomic.remove(scratch)


def _write_probe(found: Probe, folder: Path) -> None:
    save_file({"logits": found.logits.contiguous()}, folder / "logits.safetensors")
    (folder / "probe.json").write_text(json.dumps({"prompts": found.prompts, "answers": found.answers}))


def _read_probe(folder: Path) -> Probe:
    text = json.loads((folder / "probe.json").read_text())
    return Probe(text["prompts"], load_file(folder / "logits.safetensors")["logits"], text["answers"])


def main(request: dict[str, Any], scratch: Path) -> None:
    """The fresh process: load the folder, probe it, leave the result in the scratch folder."""
    model = recorded(ModelConfig, request["model"])
    hardware = recorded(HardwareConfig, request["hardware"])
    loaded = load_plain(Path(request["folder"]), model, hardware, torch.bfloat16)
    rows = read_rows(Path(request["rows"]))[: request["count"]]
    _write_probe(probe(loaded, rows, request["batch_rows"], request["max_new_tokens"], "merged"), scratch)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
