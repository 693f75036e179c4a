"""Seconds and memory of the merge: an 8B-shaped model beside `cp`, a 1B-shaped one beside PEFT.

    .venv/bin/python scripts/bench_merge.py            # needs 45 GB of disk; about 15 minutes
    .venv/bin/python scripts/bench_merge.py --small    # 0.3 GB, a minute: whether it runs, not how fast

The model has the shape of Llama 3.1 8B in bf16 (16 GB, 4 files) and random weights, one layer's for all layers: what
they are changes no time. The adapter has rank 16 on all seven linear layers of each block. Every contestant is a
process of its own and starts with none of its input in the page cache; within a round they run in turn, so that a noisy
neighbour meets all. Seconds are wall seconds from the first read to the last fsync: hashes, records and rounding checks
included, imports not. `cp` is `cp --reflink=never` of the base's weight files, and fsync of the copies.

Memory of ours is limited, not only measured: RLIMIT_DATA is set to 1.5 GiB before the first import, so that heap,
stacks, and private writable mappings of the whole process fail beyond it. Told is the highest RssAnon, sampled.
Ratios are medians over the rounds, with their range. Exit 1 where one of the bars at the end is missed.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine import describe

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LINEAR = [f"self_attn.{name}_proj" for name in "qkvo"] + [
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
]
LIMIT = 3 << 29
"""Bytes: 1.5 GiB."""
MOST = {"original / cp": 2.0, "dequantised / cp": 3.0, "memory / PEFT": 0.25, "seconds / PEFT": 1.0}


class Meter:
    """Seconds and the highest anonymous memory of a block, told as a JSON line."""

    def __enter__(self) -> None:
        self.peak, self.going = 0, True
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.started = time.monotonic()
        self.thread.start()

    def _sample(self) -> None:
        while self.going:
            text = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(text.split("RssAnon:")[1].split()[0]))
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        seconds, self.going = time.monotonic() - self.started, False
        self.thread.join()
        cpu = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        print(json.dumps({"s": seconds, "cpu_s": cpu, "gib": self.peak / 2**20}), flush=True)


def cp_in_child(folder: Path, out: Path) -> None:
    """The base's weight files as `cp` copies them, on disk."""
    files = sorted((folder / "base").glob("*.safetensors"))
    with Meter():
        subprocess.run(["cp", "--reflink=never", *files, out], check=True)
        for name in (*(path.name for path in files), "."):
            handle = os.open(out / name, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def ours_in_child(do: str, folder: Path, out: Path, layers: int) -> None:
    """`original` or `dequantised`, as export merges, with records and hashes, under the limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    from finetune.adapter_reading import read_adapter
    from finetune.merge import records_of, write_merged
    from finetune.merge_base import Base

    modules = {f"model.layers.{layer}.{name}" for layer in range(layers) for name in LINEAR}
    quantised = frozenset(modules if do == "dequantised" else ())
    with Meter():
        base = Base(folder / "base", quantised, True, "cpu", folder / "base-nf4" if quantised else None)
        records = records_of(out / "checkpoints", base, folder / "adapter", out)
        merged = write_merged(base, read_adapter(folder / "adapter"), out, records)
    if len(merged.changed) != len(modules) or merged.max_rounding_ulp > 0.5:  # noqa: PLR2004
        sys.exit("a wrong merge")


def peft_in_child(folder: Path, out: Path) -> None:
    """What PEFT's users do: load, merge, save."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with Meter():
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
        merged.save_pretrained(out)
        for path in out.iterdir():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def run_child(do: str, shape: str, folder: Path) -> dict[str, float]:
    """One measurement in a fresh process, its input on disk only and its output deleted afterwards."""
    os.sync()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    out = folder / "out"
    out.mkdir()
    command = [sys.executable, __file__, "--child", do, shape, str(folder), str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    shutil.rmtree(out)
    if done.returncode:
        sys.exit(f"{do} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {do}: {found['s']:.1f} s, {found['cpu_s']:.1f} processor seconds, {found['gib']:.2f} GiB",
        flush=True,
    )
    return found


def rounds(contestants: Sequence[str], shape: str, count: int) -> Iterator[dict[str, dict[str, float]]]:
    """The contestants' figures, round by round, on a model built for it."""
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as name:
        command = [sys.executable, __file__, "--child", "build", shape, name, name]
        subprocess.run(command, env=ENVIRONMENT, check=True)
        files = [*(Path(name) / "base").glob("*.safetensors")]
        size = sum(path.stat().st_size for path in files)
        print(f"{shape}: {size / 1e9:.1f} GB in {len(files)} files", flush=True)
        for _ in range(count):
            yield {do: run_child(do, shape, Path(name)) for do in contestants}


def ratio(name: str, values: Sequence[float]) -> bool:
    """Print a ratio's median and range beside its bar; whether it keeps it."""
    middle = statistics.median(values)
    print(f"{name}: {middle:.2f}x ({min(values):.2f} to {max(values):.2f}); at most {MOST[name]}x")
    return middle <= MOST[name]


def main() -> int:
    """Measure, print, compare with the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("cp", "peft"), help="beside cp alone, or beside PEFT alone")
    given = parser.parse_args()
    print(f"{describe()}; load average {os.getloadavg()[0]:.1f}")
    passed = []
    if given.only != "peft":
        found = [*rounds(("cp", "original", "dequantised"), "small" if given.small else "8B", given.rounds)]
        for do in ("original", "dequantised"):
            passed.append(ratio(f"{do} / cp", [item[do]["s"] / item["cp"]["s"] for item in found]))
            most = max(item[do]["gib"] for item in found)
            print(f"{do}: at most {most:.2f} GiB of anonymous memory, {LIMIT / 2**30} GiB allowed")
    if given.only != "cp":
        found = [*rounds(("peft", "original"), "smaller" if given.small else "1B", given.rounds)]
        passed.append(
            ratio("memory / PEFT", [item["original"]["gib"] / item["peft"]["gib"] for item in found])
        )
        passed.append(ratio("seconds / PEFT", [item["original"]["s"] / item["peft"]["s"] for item in found]))
    return 0 if all(passed) or given.small else 1


if __name__ == "__main__":
    if sys.argv[1:2] != ["--child"]:
        sys.exit(main())
    do, shape, folder, out = sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])
    if do == "build":
        from merge_models import SHAPES, build

        build(SHAPES[shape], folder)
    elif do == "cp":
        cp_in_child(folder, out)
    elif do == "peft":
        peft_in_child(folder, out)
    else:
        ours_in_child(
            do, folder, out, json.loads((folder / "base/config.json").read_text())["num_hidden_layers"]
        )
