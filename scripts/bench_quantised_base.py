"""Seconds and memory of loading a base from its quantised copy beside quantising it again: the demo's 135M model.

    .venv/bin/python scripts/bench_quantised_base.py              # a few minutes
    .venv/bin/python scripts/bench_quantised_base.py --start      # also `make train` to its first step

Every measurement is a process of its own; within a round the contestants run in turn, so that a noisy neighbour meets
all. Seconds are wall seconds, beside them those of the processor: on a busy machine only these say what a quiet one
takes. Memory is the highest resident size while loading (VmHWM, reset before) less the one just before, libraries
imported: mapped pages of the files count. Ratios are medians over the rounds, with their range. Exit 1 where loading
the quantised copy is not 5 times as fast, takes half the memory or more, or, with --start, the first step of a warm
start begins later than 15 processor seconds after the command.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "experiment=licences_smollm135m"
MIN_SPEED, MAX_MEMORY, MAX_START_S = 5.0, 0.5, 15.0
STATUS = Path("/proc/self/status")


def child(do: str, *settings: str, root: Path) -> dict[str, float]:
    """One measurement in a fresh process: the object that it prints last."""
    environment = {**os.environ, "ARTIFACTS_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--child", do, EXPERIMENT, f"paths.runs={root / 'runs'}", *settings]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{do} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident_mib(field: str) -> float:
    """VmRSS or VmHWM of this process."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


class Meter:
    """Seconds, processor seconds and MiB of a block, told as a JSON line."""

    def __enter__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size counts anew (man 5 proc)
        self.before, self.wall, self.cpu = resident_mib("VmRSS"), time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.monotonic() - self.wall, time.process_time() - self.cpu
        tell(wall_s=wall, cpu_s=cpu, mib=resident_mib("VmHWM") - self.before)


def tell(**figures: float) -> None:
    """Figures for the parent."""
    print(json.dumps(figures), flush=True)


def load_in_child(do: str, argv: Sequence[str]) -> None:
    """`pin`, `quantise`, `pinned` (load and quantise) or `kept` (load the quantised copy)."""
    from finetune.base import open_base
    from finetune.config import load

    run = load(argv)
    base = open_base(run)
    if do == "pin":
        return tell(mib=sum(item["bytes"] for item in base.manifest.files) / 2**20)
    import finetune.skeleton  # noqa: F401  (imports what loading and quantising import)
    from finetune.kept_base import quantise_base
    from finetune.model import load_base, quantised_base

    if do == "quantise":
        with Meter():
            quantise_base(run, base)
        return None
    kept = quantised_base(run.paths, run.model, base)
    if do == "size" and kept:
        return tell(mib=sum(item["bytes"] for item in kept.manifest.files) / 2**20)
    with Meter():
        load_base(kept if do == "kept" and kept else base, run.model, run.hardware)
    return None


def start_in_child(argv: Sequence[str]) -> None:
    """`make train` from the start of its process to the first row that enters the network."""
    from trl import SFTTrainer

    from finetune import train
    from finetune.stage import stage

    def begin(*_: Any, **__: Any) -> None:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        tell(wall_s=up - ticks / os.sysconf("SC_CLK_TCK"), cpu_s=time.process_time())
        os._exit(0)

    SFTTrainer.training_step = begin
    stage("train", train.run, argv)


def told(name: str, found: Sequence[dict[str, float]]) -> str:
    """Medians in a line."""
    middle = {key: statistics.median(item[key] for item in found) for key in found[0]}
    memory = f", {middle['mib']:.0f} MiB" if "mib" in middle else ""
    return f"{name}: {middle['wall_s']:.1f} s ({middle['cpu_s']:.1f} processor seconds){memory}"


def ratio(name: str, values: Sequence[float]) -> float:
    """Print a ratio's median and range; the median."""
    middle = statistics.median(values)
    print(f"  {name}: {middle:.2f}x ({min(values):.2f} to {max(values):.2f})")
    return middle


def start(root: Path, rounds: int) -> bool:
    """Measure warm starts; whether they keep the bar."""
    for module in ("data_prep.prepare", "finetune.plan"):
        environment = {**os.environ, "ARTIFACTS_ROOT": str(root)}
        subprocess.run([sys.executable, "-m", module, EXPERIMENT], cwd=ROOT, env=environment, check=True)
    found = [child("start", root=root) for _ in range(rounds)]
    print(told(f"`make train` to its first step (may be {MAX_START_S:.0f})", found))
    return statistics.median(item["cpu_s"] for item in found) < MAX_START_S


def main() -> int:
    """Measure, print, compare with the bars."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--start", action="store_true", help="also measure the start of training")
    given = options.parse_args()
    print(f"{describe()}; load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sizes = [child("pin", root=root)["mib"]]
        print(told("quantising once", [child("quantise", root=root)]))
        sizes.append(child("size", root=root)["mib"])
        print(f"on disk: pinned {sizes[0]:.0f} MiB, quantised {sizes[1]:.0f} MiB")
        pairs = [(child("pinned", root=root), child("kept", root=root)) for _ in range(given.rounds)]
        pinned, kept = ([pair[side] for pair in pairs] for side in (0, 1))
        print(told("loading the pinned base, quantising", pinned))
        print(told("loading the quantised base", kept))
        speed = ratio("speed", [a["wall_s"] / b["wall_s"] for a, b in pairs])
        ratio("speed in processor seconds", [a["cpu_s"] / b["cpu_s"] for a, b in pairs])
        memory = ratio("memory", [b["mib"] / a["mib"] for a, b in pairs])
        passed = speed >= MIN_SPEED and memory < MAX_MEMORY
        if given.start:
            passed = start(root, given.rounds) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    if sys.argv[1:2] != ["--child"]:
        sys.exit(main())
    start_in_child(sys.argv[3:]) if sys.argv[2] == "start" else load_in_child(sys.argv[2], sys.argv[3:])
