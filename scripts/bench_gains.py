"""What fine-tuning a 135M model gains on four real tasks, whoever wins: every arm, each with its interval.

    DATA_ROOT=<folder with cuad/ and clinc150/> .venv/bin/python scripts/bench_gains.py      # about an hour on 2 cores
    .venv/bin/python scripts/bench_gains.py --only licences_smollm135m icd10_chapters_smollm135m

Prepares, trains and evaluates through the Makefile, below $ARTIFACTS_ROOT; what is finished there is not made again.
An experiment whose data is not there is named and left out. The rows are a Markdown table: the primary metric of each
arm, and the adapter minus it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_demo import current
from machine import describe

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = [
    "licences_smollm135m",
    "cuad_clauses_smollm135m",
    "clinc_banking_smollm135m",
    "icd10_chapters_smollm135m",
]
REFUSED = "Error 3"
"""What make says where the gate refused: a report is there, and its verdict is a result like any other."""
HEAD = "| task, metric | test rows in groups | arm | value | adapter minus arm | verdict |\n|---|---|---|---|---|---|"


def made(experiment: str) -> bool:
    """Run the stages up to eval; False, with what was said, where one did not end as it should."""
    for stage in ("prepare", "train", "eval"):
        done = subprocess.run(
            ["make", "--no-print-directory", stage, f"CONF={experiment}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode and not (stage == "eval" and REFUSED in done.stdout):
            print(f"{experiment} left out; `make {stage}` says:\n" + "\n".join(done.stdout.splitlines()[-4:]))
            return False
    return True


def rows(report: dict[str, Any]) -> list[str]:
    """The lines of the table: one an arm, the adapter's last."""
    task = report["primary"]
    primary = [item for item in report["comparisons"] if item["task"] == task]
    metric = primary[0]["metric"]  # a task's own metric comes first
    size = f"{primary[0]['n']} in {primary[0]['n_groups']}"
    found = []
    for item in (item for item in primary if item["metric"] == metric):
        interval = f"{item['delta']:+.3f} [{item['ci_low']:+.3f}, {item['ci_high']:+.3f}]"
        reference = " (reference)" if item["a"] == report.get("reference") else ""
        found.append(f"| {item['a']}{reference} | {item['value_a']:.3f} | {interval} | {item['verdict']} |")
    found.append(f"| **adapter** | **{primary[0]['value_b']:.3f}** | | gate: {report['verdict']} |")
    return [f"| {task}, {metric} | {size} {line}" for line in found]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--artifacts", type=Path, default=None, help="only read the reports that are there")
    given = parser.parse_args()
    if given.artifacts is None:
        artifacts = Path(os.environ.get("ARTIFACTS_ROOT", ROOT / "artifacts"))
        finished = [name for name in given.only if made(name)]
    else:
        artifacts, finished = given.artifacts, given.only
    print(f"{describe()}\n{HEAD}")
    for name in finished:
        print("\n".join(rows(current(artifacts, "reports", name, "report.json"))))
    return 0 if finished == given.only else 1


if __name__ == "__main__":
    sys.exit(main())
