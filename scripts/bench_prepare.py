"""The prepare stage on synthetic rows, and its deduplication beside datatrove's and text-dedup's.

    .venv/bin/python scripts/bench_prepare.py --folder /tmp/bench_prepare     # about half an hour on 2 cores, 10 GB

The rows are made by synthetic_rows.py, the three deduplications run by rivals_dedup.py: both say what they do.
The others live in an environment of their own below the folder, installed once with pip. Every measurement is a
process of its own and starts from nothing; within a round all run in turn, so that a noisy neighbour meets all.
Ratios are taken within a round and told as the median of `--rounds`, with their range.

Seconds of the stage are those of the command, start to exit. Memory is the sum of PSS over the command's
process and its descendants, sampled every half second; the highest RSS of one process stands beside it. A
planted pair counts as found where both rows have the same group; pairs of which the stage dropped a row, for
their text stands in the training rows, are counted apart. No false merge: the rows of every group of two or more
are connected by pairs whose exact Jaccard similarity, computed here from the texts, reaches 0.7.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from machine import describe
from numpy.typing import NDArray
from rivals_dedup import CONTESTANTS, JACCARD, PROCESSES, SHINGLE
from synthetic_rows import LABELS, Components, Planted, false_merges, planted, recall

ROOT = Path(__file__).resolve().parents[1]
RIVALS = (
    *("datatrove==0.10.1", "orjson", "xxhash<4", "regex", "spacy", "tokenizers"),
    *("datasets", "click-option-group", "scipy", "ftfy"),
)
TEXT_DEDUP = "text-dedup==0.4.0"
"""Without its requirements, of which MinHash imports those in the second line above; Spark and TensorFlow stay out."""
MAX_GIB, MIN_ROWS_PER_S, MAX_GROWTH, MIN_SPEED = 3.0, 1500, 1.1, 1.0
MIN_RECALL = {0.8: 0.98, 0.7: 0.95}
GIB = 2**20
"""In the kB of /proc."""

Bar = tuple[str, bool, str]


@dataclass(frozen=True)
class Measured:
    """What a command took: wall seconds, its processes' memory together at its peak, the highest of one."""

    seconds: float
    peak_gib: float
    largest_gib: float
    last_line: str

    def told(self, rows: int) -> str:
        """The figures in one line."""
        return (
            f"{self.seconds:.1f} s, {rows / self.seconds:,.0f} rows/s, "
            f"{self.peak_gib:.2f} GiB (largest process {self.largest_gib:.2f})"
        )


def measured(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command from the repo's root, its output to a log. Stops the benchmark where it fails."""
    started, peak, largest = time.monotonic(), 0, 0
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=stream, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            sizes = list(memory(process.pid))
            peak = max(peak, sum(pss for pss, _ in sizes))
            largest = max([largest, *(highest for _, highest in sizes)])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
    seconds = time.monotonic() - started
    lines = log.read_text().splitlines() or [""]
    if process.returncode:
        raise SystemExit("\n".join([*lines[-20:], f"{' '.join(command)}: exit {process.returncode}"]))
    return Measured(seconds, peak / GIB, largest / GIB, lines[-1])


def memory(root: int) -> Iterator[tuple[int, int]]:
    """PSS now and the highest RSS so far, in kB, of a process and of each of its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # processes end while we look
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [root]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
        with contextlib.suppress(OSError):
            told = "".join(Path(f"/proc/{member}/{file}").read_text() for file in ("smaps_rollup", "status"))
            found = dict(re.findall(r"^(Pss|VmHWM):\s+(\d+) kB$", told, re.MULTILINE))
            if len(found) == 2:  # a process that has just ended has neither
                yield int(found["Pss"]), int(found["VmHWM"])


def run_stage(rows: Planted) -> tuple[Measured, Measured]:
    """The prepare stage from nothing, and once more with nothing changed."""
    folder = rows.path.parent
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "data_prep.prepare",
        "experiment=bench",
        f"paths.runs={folder / 'runs'}",
    ]
    environment = {
        "CONF_DIR": str(folder / "conf"),
        "DATA_ROOT": str(folder),
        "MODELS_ROOT": str(folder),
        "ARTIFACTS_ROOT": str(folder / "artifacts"),
    }
    files = {
        "data/bench_rows.yaml": (
            f"name: bench_rows\nlicence: CC0-1.0\nlabels: [{', '.join(LABELS)}]\n"
            "source:\n  kind: table\n  path: rows.jsonl\n  text_field: text\n  target_field: target\n"
            f"near_duplicates:\n  shingle_words: {SHINGLE}\n  jaccard: {JACCARD}\n"
        ),
        "experiment/bench.yaml": "# @package _global_\ndefaults:\n  - override /data: bench_rows\n\nname: bench\n",
    }
    for name, text in files.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
    first = measured(command, folder / "stage.log", environment)
    return first, measured(command, folder / "stage_again.log", environment)


def stage_components(rows: Planted) -> tuple[Components, NDArray[np.str_]]:
    """Each row's group, a negative number of its own where it was dropped, and the side it came to, by the ledger."""
    parent = rows.path.parent / "artifacts" / "data" / "bench_rows"
    components = -1 - np.arange(len(rows.starts) - 1)
    sides = np.full(len(components), "dropped")
    numbers: dict[str, int] = {}
    with (parent / (parent / "current").read_text().strip() / "ledger.jsonl").open() as ledger:
        for line in map(json.loads, ledger):
            row = int(np.searchsorted(rows.starts, line["start"]))
            if "group" in line:
                components[row] = numbers.setdefault(line["group"], len(numbers))
                sides[row] = line["outcome"]
    return components, sides


def quality(rows: Planted, components: Components) -> tuple[list[Bar], str]:
    """Recall and false merges as bars, and in one line."""
    found = {low: recall(rows, components, low) for low in MIN_RECALL}
    wrong = false_merges(rows, components, JACCARD)
    bars = [
        (f"recall >= {bar} of pairs at {low} or more", found[low] >= bar, f"{found[low]:.4f}")
        for low, bar in MIN_RECALL.items()
    ]
    told = ", ".join(f"{value:.4f} at {low} or more" for low, value in found.items())
    return [*bars, ("no false merge", not wrong, f"{wrong:,}")], f"recall {told}; false merges {wrong:,}"


def outcome(rows: Planted, sides: NDArray[np.str_]) -> str:
    """What became of the planted pairs at the threshold that are not on one side, in one line."""
    joined = rows.jaccard >= JACCARD
    pairs = np.stack((sides[rows.original], sides[rows.copy]))[:, joined]
    dropped = (pairs == "dropped").any(axis=0)
    across = (pairs[0] != pairs[1]) & ~dropped
    return f"of {joined.sum():,} pairs {dropped.sum():,} dropped, {across.sum():,} across sides"


def rivals_python(folder: Path) -> str:
    """The interpreter of the environment that holds the others, made where it is missing."""
    home = folder / "rivals"
    if not (home / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        for packages in (RIVALS, ("--no-deps", TEXT_DEDUP)):
            subprocess.run([str(home / "bin" / "pip"), "install", "-qq", *packages], check=True)
        (home / "made").touch()
    return str(home / "bin" / "python")


def bench_stage(sizes: Sequence[int], folder: Path, rounds: int) -> list[Bar]:
    """The stage at every size, `rounds` times; what it reached at the largest, and how its time grew."""
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    peaks: list[float] = []
    bars: list[Bar] = []
    for number in range(rounds):
        for size in sizes:
            rows = planted(folder / f"rows_{size}", size)
            first, again = run_stage(rows)
            seconds[size].append(first.seconds)
            told = ""
            if number == 0:
                components, sides = stage_components(rows)
                bars, told = quality(rows, components)
                told = f"; {told}; {outcome(rows, sides)}"
            if size == max(sizes):
                peaks.append(first.peak_gib)
            print(
                f"stage, {size:,} rows: {first.told(size)}, unchanged {again.seconds:.1f} s{told}", flush=True
            )
    largest, smallest = max(sizes), min(sizes)
    speed = largest / statistics.median(seconds[largest])
    bars += [
        (f"peak memory under {MAX_GIB} GiB", max(peaks) < MAX_GIB, f"{max(peaks):.2f} GiB"),
        (f"at least {MIN_ROWS_PER_S} rows/s", speed >= MIN_ROWS_PER_S, f"{speed:,.0f} rows/s"),
    ]
    if largest > smallest:
        growth = [many / few for many, few in zip(seconds[largest], seconds[smallest], strict=True)]
        allowed = MAX_GROWTH * largest / smallest
        bars.append(
            (f"time grows at most {allowed:.1f}x", statistics.median(growth) <= allowed, spread(growth))
        )
    return [(f"stage, {largest:,} rows: {bar}", met, value) for bar, met, value in bars]


def bench_dedup(size: int, folder: Path, rounds: int) -> list[Bar]:
    """Our deduplication beside the others', `rounds` times in turn."""
    python, rows = rivals_python(folder), planted(folder / f"rows_{size}", size)
    bars: list[Bar] = []
    ratios = []
    for number in range(rounds):
        seconds = {}
        for name in CONTESTANTS:
            if number and name == "datatrove":
                continue  # several times slower than datatrove_split, with the same result: once is enough
            scratch = folder / "dedup"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            command = [
                sys.executable if name == "ours" else python,
                str(ROOT / "scripts" / "rivals_dedup.py"),
                name,
                str(rows.path),
                str(scratch),
            ]
            found = measured(command, folder / f"dedup_{name}.log", {})
            seconds[name] = json.loads(found.last_line)["seconds"]
            told = ""
            if number == 0:
                judged, told = quality(rows, np.load(scratch / "components.npy"))
                told = f"; {told}"
                bars = judged if name == "ours" else bars
            alone = replace(found, seconds=seconds[name])
            print(f"deduplication, {size:,} rows, {name}: {alone.told(size)}{told}", flush=True)
        ratios.append(min(value for name, value in seconds.items() if name != "ours") / seconds["ours"])
    faster = statistics.median(ratios)
    bars.append((f"at least {MIN_SPEED}x the fastest other", faster >= MIN_SPEED, spread(ratios)))
    return [(f"deduplication, {size:,} rows: {bar}", met, value) for bar, met, value in bars]


def spread(values: Sequence[float]) -> str:
    """The median of some ratios, with their range."""
    return f"{statistics.median(values):.2f}x (from {min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rival-rows", type=int, default=100_000)
    parser.add_argument("--skip-rivals", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    print(f"{describe()}; {PROCESSES} processes each", flush=True)
    bars = [] if arguments.skip_rivals else bench_dedup(arguments.rival_rows, folder, arguments.rounds)
    bars += bench_stage(arguments.rows, folder, arguments.rounds)
    for bar, met, value in bars:
        print(f"{'met   ' if met else 'MISSED'} {bar}: {value}")
    return 0 if all(met for _, met, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
