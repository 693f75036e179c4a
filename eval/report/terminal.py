"""The report in a few lines for the person at the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from eval import gate
from eval.report import losses
from finetune.config.eval import EvalConfig


def lines(report: Mapping[str, Any], config: EvalConfig) -> Iterator[str]:
    """A table of arms and metrics for every task, what was lost, then the deciding comparison."""
    for task in config.tasks:
        metrics = {arm: values[task] for arm, values in report["arms"].items()}
        names = list(next(iter(metrics.values())))
        width = max(len(arm) for arm in [*metrics, task])
        heads = [f"{name.replace('_', ' '):>13}" for name in names]
        yield f"  {task:{width}}" + "".join(f"  {head}" for head in heads)
        for arm, values in metrics.items():
            shown = [_percent(values[name]).rjust(len(head)) for name, head in zip(names, heads, strict=True)]
            yield f"  {arm:{width}}" + "".join(f"  {value}" for value in shown)
    yield from losses.lines(report, config)
    yield gate.sentence(gate.deciding(report, config))


def _percent(value: float | None) -> str:
    """A share, or a dash where the arm's answers do not hold what the metric needs."""
    return "-" if value is None else f"{100 * value:.1f} %"
