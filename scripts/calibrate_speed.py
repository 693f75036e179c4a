"""Fit the one constant of finetune/plan/speed.py to published runs, and print what it errs on sources it has not seen.

    .venv/bin/python -m scripts.calibrate_speed ../shared/data/memory_points.json     # about 2 minutes on 2 cores

The constant is the share of the hardware's rates at which half of the runs are predicted too fast and half too slow.
Then each source is left out in turn, the constant fitted to the others, and the source's runs predicted with it.
Exit 1 where the median of these errors is above 15 %, or where the fitted constant is not the one in speed.py.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.plan import HardwareConfig
from finetune.console import progress, say
from finetune.plan.settings import Settings
from finetune.plan.speed import SHARE, step_speed
from scripts.published_runs import hardware_of, settings_of
from scripts.published_shapes import UnexpressedError

MEDIAN, TOLERANCE = 0.15, 0.005


@dataclass
class Run:
    """A published run: its simulated micro-step, its hardware and its measured tokens/s on one GPU."""

    id: str
    source: str
    simulation: Any
    settings: Settings
    hardware: HardwareConfig
    accumulation: int
    measured: float

    def error(self, share: float) -> float:
        """Relative error of the predicted tokens/s, positive where it is too fast."""
        speed = step_speed(self.simulation, self.settings, self.hardware, self.accumulation, share)
        if speed is None:
            raise ValueError(f"{self.hardware.name} has no rates")
        return speed.tokens_per_s / self.settings.gpus / self.measured - 1


def simulated(rows: Sequence[Mapping[str, Any]]) -> list[Run]:
    """The runs with a measured speed; what cannot be expressed is named with the reason."""
    from finetune.plan.simulate import simulate

    known: dict[Settings, Any] = {}
    found = []
    for row in progress(rows, "simulate", len(rows)):
        if not row["tokens_per_s_per_gpu"]:
            continue
        try:
            settings = settings_of(row)
            hardware = hardware_of(row)
        except UnexpressedError as reason:
            say(f"left out: {row['id']}: {reason}")
            continue
        if settings not in known:
            known[settings] = simulate(settings)
        facts = (known[settings], settings, hardware, row["grad_accum"] or 1)
        found.append(Run(row["id"], row["source"].split("/")[-1], *facts, row["tokens_per_s_per_gpu"]))
    return found


def fitted(runs: Sequence[Run]) -> float:
    """The share at which the median error is zero, by bisection: the predicted speed grows with it."""
    low, high = 0.1, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        too_fast = statistics.median(run.error(middle) for run in runs) > 0
        low, high = (low, middle) if too_fast else (middle, high)
    return low


def told(name: str, share: float, errors: Sequence[float]) -> str:
    """One line on the errors of some runs."""
    sizes = sorted(abs(error) for error in errors)
    p90 = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return (
        f"{name:24} share {share:.3f}  {len(errors):3} runs  median {statistics.median(sizes):6.1%}  p90 {p90:6.1%}  "
        f"worst {sizes[-1]:6.1%}  median of the signed {statistics.median(errors):+6.1%}"
    )


def main(argv: Sequence[str]) -> int:
    """Print the fit and the errors; see the module's text."""
    from finetune.model import prepare_libraries

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", type=Path)
    parser.add_argument("--rows", action="store_true", help="print every run's error, its source left out")
    arguments = parser.parse_args(argv)
    prepare_libraries()
    warnings.filterwarnings("ignore")
    runs = simulated(json.loads(arguments.points.read_text()))
    share = fitted(runs)
    say(told("fitted to all", share, [run.error(share) for run in runs]))
    unseen: list[float] = []
    for source in dict.fromkeys(run.source for run in runs):
        held = [run for run in runs if run.source == source]
        others = fitted([run for run in runs if run.source != source])
        errors = {run.id: run.error(others) for run in held}
        say(told(f"{source} left out", others, list(errors.values())))
        if arguments.rows:
            say("\n".join(f"  {name:16} {error:+.1%}" for name, error in errors.items()))
        unseen += errors.values()
    median = statistics.median(abs(error) for error in unseen)
    say(f"on sources left out, all runs: median {median:.1%}, may be {MEDIAN:.0%}")
    if abs(share - SHARE) > TOLERANCE:
        say(f"finetune/plan/speed.py says SHARE = {SHARE}, the fit {share:.3f}")
    return 1 if median > MEDIAN or abs(share - SHARE) > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
