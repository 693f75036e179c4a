"""Whether an evaluation lets the adapter pass: the verdict against the stronger of base and majority."""

from collections.abc import Mapping
from typing import Any

from eval.arms import ADAPTER, BASE, MAJORITY
from eval.stats import BETTER, INCONCLUSIVE
from finetune.config.eval import EvalConfig
from finetune.errors import ConfigError, RefusedError

Report = Mapping[str, Any]
"""report.json as the design's contract has it."""


def reference(arms: Mapping[str, Mapping[str, Mapping[str, float | None]]], config: EvalConfig) -> str:
    """The arm that the adapter must beat: the better of base and majority on the primary metric.

    Raises ConfigError where the adapter, or both of them, lack what the metric needs.
    """
    metric = config.tasks[config.primary].metric.name
    found = {arm: arms[arm][config.primary][metric] for arm in (ADAPTER, BASE, MAJORITY)}
    known = {arm: value for arm, value in found.items() if value is not None}
    rivals = [arm for arm in (BASE, MAJORITY) if arm in known]
    if ADAPTER not in known or not rivals:
        raise ConfigError(
            f"eval.tasks.{config.primary}.metric={metric} has no value: the answers carry no confidence or "
            "ranking, or no row is counted; choose another metric"
        )
    return max(rivals, key=lambda arm: known[arm])


def deciding(report: Report, config: EvalConfig) -> Mapping[str, Any]:
    """The comparison that the verdict is about: adapter against the reference arm on the primary metric."""
    wanted = (
        reference(report["arms"], config),
        ADAPTER,
        config.primary,
        config.tasks[config.primary].metric.name,
    )
    found: Mapping[str, Any] = next(
        item
        for item in report["comparisons"]
        if (item["a"], item["b"], item["task"], item["metric"]) == wanted
    )
    return found


def passes(verdict: str, config: EvalConfig) -> bool:
    """`better` passes; `inconclusive` only where the configuration accepts it."""
    return verdict == BETTER or (verdict == INCONCLUSIVE and config.accept_inconclusive)


def require_gain(report: Report, config: EvalConfig) -> None:
    """Raise RefusedError, with the numbers in one line, where the report does not pass."""
    if passes(report["verdict"], config):
        return
    advice = {
        INCONCLUSIVE: "enlarge the test set or train further, or set eval.accept_inconclusive=true",
    }.get(report["verdict"], "train on more or cleaner rows, or keep the base")
    raise RefusedError(f"{sentence(deciding(report, config))}; {advice}")


def overrides(report: Report, config: EvalConfig) -> list[str]:
    """What the manifest records where only an override lets the report pass."""
    forced = report["verdict"] != BETTER and passes(report["verdict"], config)
    return ["eval.accept_inconclusive"] if forced else []


def sentence(item: Mapping[str, Any]) -> str:
    """One comparison in one line: verdict, difference, interval, size, detectable effect."""
    found = (
        "no detectable gain can be stated"
        if item["mde"] is None
        else f"a gain of {item['mde']:.4f} is found 4 times in 5"
    )
    return (
        f"{item['verdict']}: {item['b']} minus {item['a']} on {item['task']} {item['metric']} is "
        f"{item['delta']:+.4f} [{item['ci_low']:+.4f}, {item['ci_high']:+.4f}], p {item['p']:.2g}, "
        f"{item['n']} rows in {item['n_groups']} groups (as much as {item['effective_groups']:.0f} equal ones), {found}"
    )
