"""Time and memory of a 70B plan and of its search: python scripts/bench_plan.py.

Prints both with the machine they ran on. Exit 1 past the bars: a plan in 20 s, a search over 24 candidates or more in
180 s, both under 3 GiB (PSS of all their processes).
"""

import json
import sys
import tempfile
from pathlib import Path

from bench_prepare import Measured, measured
from machine import describe

EXPERIMENT = "contracts_llama70b"
PLAN_S, SEARCH_S, CANDIDATES, PEAK_GIB = 20, 180, 24, 3.0


def plan(folder: Path, *overrides: str) -> tuple[Measured, int]:
    """`make plan` in a fresh artifacts folder, and how many candidates its plan lists."""
    root = folder / str(len(list(folder.iterdir())))
    command = [sys.executable, "-m", "finetune.plan", f"experiment={EXPERIMENT}", *overrides]
    found = measured(command, folder / "log.txt", {"ARTIFACTS_ROOT": str(root)})
    (written,) = root.glob("plans/*/*/plan.json")
    return found, len(json.loads(written.read_text())["candidates"])


def main() -> int:
    """Measure both and compare with the bars."""
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        single, _ = plan(Path(name))
        search, candidates = plan(Path(name), "plan.search=true")
    print(f"plan of {EXPERIMENT}: {single.seconds:.1f} s (may be {PLAN_S}), {single.peak_gib:.2f} GiB")
    print(
        f"search over {candidates} candidates: {search.seconds:.0f} s (may be {SEARCH_S}), {search.peak_gib:.2f} GiB "
        f"(may be {PEAK_GIB:.0f})"
    )
    kept = single.seconds <= PLAN_S and search.seconds <= SEARCH_S and candidates >= CANDIDATES
    return 0 if kept and max(single.peak_gib, search.peak_gib) < PEAK_GIB else 1


if __name__ == "__main__":
    sys.exit(main())
