"""Predict published runs and compare: python -m scripts.check_plan ../shared/data/memory_points.json [--json].

Reads rows in the format of memory_points.json, simulates each, and prints predicted, measured, error and source a
row, then coverage, median, 90th percentile and worst error by kind of measurement. Exit 1 past the bars: on rows of
quality A measured as torch's peak, 90 % expressed, median <= 4 %, p90 <= 10 %, no run that was out of memory called
`fits` and none that ran called `does not fit`; 4 where the file cannot be read.
"""

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from finetune.architecture import REFUSALS
from finetune.console import complain, progress, quiet_libraries
from finetune.errors import DataError, HallmarkError
from finetune.plan.settings import Settings
from scripts.published_runs import hardware_of, settings_of
from scripts.published_shapes import UnexpressedError

NEEDED = "id source model arch quant seq_len micro_batch lora_rank num_gpus gpu peak_gib peak_kind oom quality".split()
COVERAGE, MEDIAN, P90 = 0.9, 0.04, 0.10


@dataclass
class Outcome:
    """One published run beside its prediction; `reason` where it cannot be expressed."""

    id: str
    source: str
    peak_kind: str
    quality: str
    settings: str = ""
    predicted_gib: float | None = None
    measured_gib: float | None = None
    verdict: str = ""
    oom: bool = False
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Relative, positive where too much is predicted."""
        if self.predicted_gib is None or not self.measured_gib:
            return None
        return self.predicted_gib / self.measured_gib - 1


def read_points(path: Path) -> list[dict[str, Any]]:
    """The rows of a points file, a JSON list or JSON lines. Raises DataError naming file, row and missing fields."""
    try:
        text = path.read_text()
        rows = (
            [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no file of runs ({error}); give one in the format of memory_points.json"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: a list of runs is needed, not {type(rows).__name__}")
    for index, row in enumerate(rows, 1):
        missing = [key for key in NEEDED if key not in row] if isinstance(row, dict) else NEEDED
        if missing:
            name = row.get("id", "?") if isinstance(row, dict) else "?"
            raise DataError(
                f"{path}: row {index} (id {name}) has no {', '.join(missing)}; add it, null where unknown"
            )
    return rows


def outcome(row: dict[str, Any]) -> Outcome:
    """Predict one run."""
    texts = {key: str(row[key]) for key in ("id", "source", "quality")}
    found = Outcome(**texts, peak_kind=str(row["peak_kind"]).split(" (")[0], oom=bool(row["oom"]))
    try:
        found.measured_gib = measured_gib(row)
        predict(row, found)
    except UnexpressedError as reason:
        found.reason = str(reason)
    except (
        HallmarkError,
        RuntimeError,
        AssertionError,
        *REFUSALS,
    ) as error:  # what libraries raise on what cannot be built
        line = (str(error).strip() or "no reason given").splitlines()[-1]
        found.reason = f"cannot be simulated ({type(error).__name__}: {line[:120]})"
    return found


def measured_gib(row: dict[str, Any]) -> float | None:
    """The measured peak, None where there is none. Raises UnexpressedError where it is no size."""
    value = row["peak_gib"]
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UnexpressedError(f"peak_gib is {str(value)[:20]}, not a number above 0")
    return float(value)


def predict(row: dict[str, Any], found: Outcome) -> None:
    """Fill in what is predicted. Raises UnexpressedError, or what libraries raise on a model that cannot be built."""
    from finetune.model import prepare_libraries
    from finetune.plan.device import device_memory
    from finetune.plan.simulate import simulate

    settings, hardware = settings_of(row), hardware_of(row)
    prepare_libraries()
    warnings.filterwarnings("ignore")
    simulation = simulate(settings)
    device = device_memory(simulation.peak.total, simulation.paged, settings, hardware)
    found.settings = fingerprint(settings, str(row["gpu"]))
    found.predicted_gib = device.allocated / 2**30
    found.verdict = device.verdict.value


def fingerprint(settings: Settings, gpu: str) -> str:
    """Equal for runs of equal settings, whatever version of the software made them."""
    return json.dumps([asdict(replace(settings)), gpu], sort_keys=True, default=str)


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """Which bars are missed, on rows of quality A and torch's peak."""
    judged = [
        item for item in outcomes if item.quality == "A" and item.peak_kind.startswith("torch_max_allocated")
    ]
    expressed = [item for item in judged if not item.reason]
    errors = sorted(abs(item.error) for item in expressed if item.error is not None)
    found = []
    if judged and len(expressed) < COVERAGE * len(judged):
        found.append(f"{len(expressed)} of {len(judged)} rows are expressed, {COVERAGE:.0%} are asked")
    if errors and statistics.median(errors) > MEDIAN:
        found.append(f"median error {statistics.median(errors):.1%} above {MEDIAN:.0%}")
    if errors and percentile(errors, 0.9) > P90:
        found.append(f"90th percentile {percentile(errors, 0.9):.1%} above {P90:.0%}")
    for item in outcomes:
        if item.oom and item.verdict == "fits":
            found.append(f"{item.id} was out of memory and is called fits")
        if not item.oom and item.measured_gib and item.verdict == "does not fit":
            found.append(f"{item.id} ran and is called does not fit")
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(1000 * share) * len(ordered) // 1000) - 1))]


def told(outcomes: Sequence[Outcome]) -> str:
    """The table of rows and the summary by kind."""
    lines = [f"{'id':16} {'predicted':>10} {'measured':>9} {'error':>7}  {'verdict':12} source"]
    for item in outcomes:
        predicted = "-" if item.predicted_gib is None else f"{item.predicted_gib:.2f}"
        measured = "OOM" if item.oom else "-" if item.measured_gib is None else f"{item.measured_gib:.2f}"
        error = "" if item.error is None else f"{100 * item.error:+.1f}%"
        lines.append(
            f"{item.id:16} {predicted:>10} {measured:>9} {error:>7}  {item.verdict:12} {item.reason or item.source}"
        )
    return "\n".join([*lines, "", *summary(outcomes)])


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """One line a kind and quality: runs, distinct settings, coverage and errors."""
    lines = []
    for kind in sorted({(item.peak_kind, item.quality) for item in outcomes}):
        rows = [item for item in outcomes if (item.peak_kind, item.quality) == kind]
        expressed = [item for item in rows if not item.reason]
        errors = sorted(abs(item.error) for item in expressed if item.error is not None)
        text = f"{kind[0]}, quality {kind[1]}: {len(expressed)} of {len(rows)} rows expressed"
        if errors:
            distinct = len({item.settings for item in expressed if item.error is not None})
            text += (
                f", {len(errors)} measured ({distinct} distinct settings): median {statistics.median(errors):.1%}, "
                f"p90 {percentile(errors, 0.9):.1%}, worst {errors[-1]:.1%}"
            )
        lines.append(text)
    return lines


def main(argv: Sequence[str]) -> int:
    """Predict all rows of a file; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", type=Path)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        rows = read_points(args.points)
    except DataError as error:
        complain(f"error: {error.problems[0]}")
        return error.exit_code
    fresh = get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=fresh, initializer=quiet_libraries) as pool:
        found = pool.map(outcome, rows)
        # with --json nothing else may stand in the output
        outcomes = list(found if args.json else progress(found, "predict", len(rows)))
    missed = problems(outcomes)
    if args.json:
        print(
            json.dumps(
                {"rows": [asdict(item) | {"error": item.error} for item in outcomes], "problems": missed}
            )
        )
    else:
        print(told(outcomes))
    for problem in missed:
        print(f"past a bar: {problem}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
