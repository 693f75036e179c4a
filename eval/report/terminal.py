"""The report in a few lines for the person at the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from eval import gate
from finetune.config.eval import EvalConfig


def lines(report: Mapping[str, Any], config: EvalConfig) -> Iterator[str]:
    """A table of arms and metrics for every task, then the deciding comparison."""
    for task in config.tasks:
        metrics = {arm: values[task] for arm, values in report["arms"].items()}
        names = list(next(iter(metrics.values())))
        width = max(len(arm) for arm in [*metrics, task])
        yield f"  {task:{width}}" + "".join(f"  {name.replace('_', ' '):>13}" for name in names)
        for arm, values in metrics.items():
            yield f"  {arm:{width}}" + "".join(f"  {100 * values[name]:11.1f} %" for name in names)
    yield gate.sentence(gate.deciding(report, config))
