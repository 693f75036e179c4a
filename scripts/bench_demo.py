"""The demo from a fresh clone: how long it takes and what it reaches, beside what it must.

    .venv/bin/python scripts/bench_demo.py            # about 15 minutes on 2 cores
    .venv/bin/python scripts/bench_demo.py --here     # only read the figures of ./artifacts

Clones HEAD into a temporary folder, then times `make setup`, `make demo` and `make test` there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).resolve().parents[1]
NAME, DATA, TASK = "licences_smollm135m", "licence_notices", "licence"
LIMITS_MIN = {"setup": 8.0, "demo": 15.0, "test": 8.0}


def timed(clone: Path, target: str) -> bool:
    """Run a make target; print its minutes; whether it passed within its limit."""
    started = time.monotonic()
    done = subprocess.run(
        ["make", target], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    minutes = (time.monotonic() - started) / 60
    print(
        f"make {target}: {minutes:.1f} min, at most {LIMITS_MIN[target]:.0f}; exit {done.returncode}",
        flush=True,
    )
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-20:]))
    return done.returncode == 0 and minutes <= LIMITS_MIN[target]


def current(artifacts: Path, kind: str, name: str, file: str) -> dict[str, Any]:
    """A JSON file of the last finished run."""
    folder = artifacts / kind / name
    found: dict[str, Any] = json.loads((folder / (folder / "current").read_text().strip() / file).read_text())
    return found


def figures(artifacts: Path) -> bool:
    """Print what the demo reached beside its bar; whether all bars are met."""
    for kind, name in (("data", DATA), ("adapters", NAME), ("reports", NAME), ("exports", NAME)):
        print(f"  {kind}: {current(artifacts, kind, name, 'manifest.json')['seconds']:.0f} s")
    leak = current(artifacts, "data", DATA, "manifest.json")["counts"]["random_split"]
    print(f"  a random split would leak: {leak}")
    report = current(artifacts, "reports", NAME, "report.json")
    fidelity = current(artifacts, "exports", NAME, "fidelity.json")
    for arm, tasks in report["arms"].items():
        print(f"  {arm}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in tasks[TASK].items()))
    for item in report["comparisons"]:
        if item["metric"] == "exact_match":
            interval = f"[{item['ci_low']:+.3f}, {item['ci_high']:+.3f}]"
            print(f"  {item['b']} minus {item['a']}: {item['delta']:+.3f} {interval} {item['verdict']}")
    ratio = fidelity["mean_kl"] / fidelity["floor"]["kl"]
    bars = [
        ("verdict better", report["verdict"] == "better", report["verdict"]),
        ("exact match >= 0.45", report["arms"]["adapter"][TASK]["exact_match"] >= 0.45, ""),
        ("240 test rows or more", report["comparisons"][0]["n"] >= 240, report["comparisons"][0]["n"]),
        ("1,000 positions or more", fidelity["positions"] >= 1000, fidelity["positions"]),
        ("fp32 KL <= 1e-4", fidelity["fp32_kl"] <= 1e-4, f"{fidelity['fp32_kl']:.1e}"),
        ("fp32 top-1 >= 0.999", fidelity["fp32_top1"] >= 0.999, fidelity["fp32_top1"]),
        ("bf16 KL <= 4x the noise floor", ratio <= 4, f"{fidelity['mean_kl']:.1e} = {ratio:.2f}x"),
        ("prompt ids identical", fidelity["prompt_ids_equal"], ""),
    ]
    for bar, met, value in bars:
        print(f"  {'met   ' if met else 'MISSED'} {bar} {value}")
    print(f"  greedy answers equal: {fidelity['greedy_equal']} of {fidelity['prompts']}")
    return all(met for _, met, _ in bars)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--here", action="store_true")
    print(describe())
    if parser.parse_args().here:
        return 0 if figures(ROOT / "artifacts") else 1
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "hallmark"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        passed = [timed(clone, target) for target in LIMITS_MIN]
        return 0 if figures(clone / "artifacts") and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
