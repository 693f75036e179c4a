"""`python -m eval.compare A.jsonl B.jsonl --metric accuracy --cluster group`: is B better than A?

Rows of both files are `{"id", "group", "gold", "prediction"}`, or `{"id", "group", "score"}` for mean_score; what
else they hold is not read. Verdict, interval and p are those of `make eval` (docs/statistics.md). It is no gate: it
exits with 0 whatever the verdict.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from eval import stats
from eval.compare_metrics import METRICS
from eval.comparison import Compared, Comparison, compare
from eval.prediction_files import Wanted, read_predictions
from eval.predictions import Prediction, pair, require_several_answers
from eval.report.words import Words
from finetune.config.eval import EvalConfig
from finetune.console import say
from finetune.errors import ConfigError
from finetune.stage import guarded


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(ConfigError.exit_code, f"error: {message}; see `python -m eval.compare --help`\n")


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(
        prog="python -m eval.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("a", type=Path, help="predictions of the one that is to be beaten")
    made.add_argument("b", type=Path, help="predictions of the other; the difference is B minus A")
    made.add_argument("--metric", choices=METRICS, required=True)
    made.add_argument(
        "--cluster", default="group", metavar="FIELD", help="what rows share that are not independent"
    )
    made.add_argument("--task", help="compare this task's rows only")
    made.add_argument(
        "--seeds", type=Path, nargs="+", default=[], metavar="FILE", help="B from other training seeds"
    )
    made.add_argument(
        "--min-gain", type=_at_least_zero, default=EvalConfig.min_gain, help="the least gain that is better"
    )
    made.add_argument("--margin", type=_above_zero, help="say whether a loss this large is excluded")
    made.add_argument("--json", action="store_true", help="one comparison as in report.json")
    return made


def run(arguments: argparse.Namespace) -> Comparison:
    """The comparison that the arguments ask for. Raises ConfigError and DataError."""
    metric, config = METRICS[arguments.metric], EvalConfig(min_gain=arguments.min_gain)
    wanted = Wanted(arguments.cluster, not metric.by_score, metric.by_score, arguments.task)
    a, b = (read_predictions(path, wanted) for path in (arguments.a, arguments.b))
    if not metric.by_score:
        require_several_answers(a)
    statistic = metric.difference(pair(a, b))
    names = Compared(*_names(arguments.a, arguments.b), a[0]["task"] or None, arguments.metric)
    found = compare(names, statistic, config, arguments.margin)
    found.p_adjusted = found.p  # it stands alone
    if arguments.seeds:
        _add_seeds(found, a, arguments, wanted)
    return found


def main(argv: Sequence[str]) -> int:
    """Compare and say so; the exit code."""
    arguments = parser().parse_args(argv)

    def work() -> None:
        found = run(arguments)
        if arguments.json:
            say(json.dumps(asdict(found), allow_nan=False))
            return
        metric, config = METRICS[arguments.metric], EvalConfig(min_gain=arguments.min_gain)
        for line in Words(found, config, metric.explained, percent=not metric.by_score).sentences():
            say(line)

    return guarded(work)


def _add_seeds(found: Comparison, a: list[Prediction], arguments: argparse.Namespace, wanted: Wanted) -> None:
    """Other seeds' differences on the same rows: their spread stands apart from the interval."""
    difference = METRICS[arguments.metric].difference
    others = (difference(pair(a, read_predictions(path, wanted))) for path in arguments.seeds)
    spread = stats.seed_spread([found.delta, *(stats.whole(item) for item in others)])
    found.seeds, found.seed_sd = spread.count, spread.standard_deviation


def _names(a: Path, b: Path) -> tuple[str, str]:
    """What the files are called: without folder and ending where that tells them apart."""
    return (str(a), str(b)) if a.stem == b.stem else (a.stem, b.stem)


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def _above_zero(text: str) -> float:
    value = _at_least_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("a margin of 0 excludes no loss; take a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
