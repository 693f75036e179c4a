"""Whether an evaluation lets its adapter be exported: better than what it must beat, and nothing lost beyond a margin.

All of it must hold, so none needs a correction for the others (an intersection-union test, Berger 1982): to beat the
best of several arms is to beat each. Choosing the best by the same rows and testing against that one alone is not the
same: where luck lifts an arm that resembles the adapter above the true best, its small error makes a false `better`
(docs/evaluation.md counts how often).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from eval.arms import ADAPTER, BASE, FEW_SHOT, MAJORITY
from eval.stats import BETTER, INCONCLUSIVE, WORSE
from finetune.config.eval import EvalConfig, Reference
from finetune.config.eval_checks import margin_of
from finetune.errors import ConfigError, RefusedError

Report = Mapping[str, Any]
"""report.json as the design's contract has it."""
Item = Mapping[str, Any]
"""One comparison of it, or one check of its gate."""
SUPERIORITY, NON_INFERIORITY = "superiority", "non_inferiority"
NOT_INFERIOR, INFERIOR = "not inferior", "inferior"


def rivals(config: EvalConfig) -> list[str]:
    """The arms that the adapter must beat."""
    return [BASE, FEW_SHOT, MAJORITY] if config.reference is Reference.auto else [config.reference.name]


def missing(arms: Collection[str], config: EvalConfig) -> list[str]:
    """What a gate needs and is not among the arms; such a report lets no export happen."""
    needed = [*rivals(config), *([BASE] if config.margins else [])]
    return [arm for arm in dict.fromkeys(needed) if arm not in arms]


def margins(config: EvalConfig) -> dict[tuple[str, str], float]:
    """The loss against the base that must be excluded, by task and metric."""
    found = ((margin_of(key, config), margin) for key, margin in config.margins.items())
    return {ability: margin for ability, margin in found if ability is not None}


def reference(arms: Mapping[str, Mapping[str, Mapping[str, float | None]]], config: EvalConfig) -> str:
    """The best of the arms that the adapter must beat, by the primary metric; of those there are without a gate.

    Raises ConfigError where the adapter, or all of them, lack what the metric needs.
    """
    metric = config.tasks[config.primary].metric.name
    known = {arm: found[config.primary][metric] for arm, found in arms.items()}
    values = {arm: value for arm, value in known.items() if value is not None}
    asked = [arm for arm in rivals(config) if arm in arms] or [arm for arm in arms if arm != ADAPTER]
    measured = [arm for arm in asked if arm in values]
    if ADAPTER not in values or not measured:
        raise ConfigError(
            f"eval.tasks.{config.primary}.metric={metric} has no value: the answers carry no confidence or "
            "ranking, or no row is counted; choose another metric"
        )
    return max(measured, key=lambda arm: values[arm])


def contests(report: Report, config: EvalConfig) -> list[Item]:
    """The adapter against each arm that it must beat, on the primary metric, the best of them first."""
    best = reference(report["arms"], config)
    metric = config.tasks[config.primary].metric.name
    found = {
        item["a"]: item
        for item in report["comparisons"]
        if (item["b"], item["task"], item["metric"]) == (ADAPTER, config.primary, metric)
    }
    return [found[arm] for arm in dict.fromkeys([best, *rivals(config)]) if arm in found]


def hold_together(report: Report, config: EvalConfig) -> None:
    """Take back verdicts of the comparisons that do not stand once all are read together.

    A `better` of the gate stands by its own p, since all of them must be; a `worse` does not, since one suffices.
    """
    own = contests(report, config)
    for item in report["comparisons"]:
        stands = item["verdict"] == BETTER and any(item is member for member in own)
        if not stands and item["p_adjusted"] >= 1 - config.confidence:
            item["verdict"] = INCONCLUSIVE


def deciding(report: Report, config: EvalConfig) -> Item:
    """The comparison that the verdict is that of: the first that is worse, else not better, else with the best arm."""
    found = contests(report, config)
    for wanted in ((WORSE,), (INCONCLUSIVE,)):
        for item in found:
            if item["verdict"] in wanted:
                return item
    return found[0]


def judge(report: Report, config: EvalConfig) -> dict[str, Any] | None:
    """The gate section of the report, from its comparisons and its forgetting suites; None where arms are missing."""
    if missing(report["arms"], config):
        return None
    checks = [*_superiority(report, config), *_abilities(report, config), *_suites(report, config)]
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _superiority(report: Report, config: EvalConfig) -> Iterator[dict[str, Any]]:
    for item in contests(report, config):
        passed = item["verdict"] == BETTER or (item["verdict"] == INCONCLUSIVE and config.accept_inconclusive)
        yield _check(SUPERIORITY, item, config.min_gain, item["verdict"], passed)


def _abilities(report: Report, config: EvalConfig) -> Iterator[dict[str, Any]]:
    """Raises ConfigError where base or adapter have no value of a metric that has a margin."""
    found = {(item["task"], item["metric"]): item for item in report["comparisons"] if item["a"] == BASE}
    for (task, metric), margin in margins(config).items():
        if (task, metric) not in found:
            raise ConfigError(
                f"eval.margins: {task}.{metric} has no value, for base or adapter; name another metric"
            )
        yield _not_inferior(found[task, metric], margin, config)


def _suites(report: Report, config: EvalConfig) -> Iterator[dict[str, Any]]:
    for suite in (report.get("forgetting") or {}).get("suites", []):
        if suite.get("skipped") is None and suite.get("margin") is not None:
            item = {"task": suite["name"], "a": BASE, "b": ADAPTER, **suite}
            yield _not_inferior(item, suite["margin"], config)


def _not_inferior(item: Item, margin: float, config: EvalConfig) -> dict[str, Any]:
    """A loss that is certain is one, whatever its size; one that is only not excluded is inconclusive."""
    verdict = INFERIOR if item["verdict"] == WORSE else INCONCLUSIVE
    verdict = NOT_INFERIOR if item["not_inferior"] else verdict
    passed = verdict == NOT_INFERIOR or (verdict == INCONCLUSIVE and config.accept_inconclusive)
    return _check(NON_INFERIORITY, item, margin, verdict, passed)


def _check(kind: str, item: Item, margin: float, verdict: str, passed: bool) -> dict[str, Any]:
    kept = ("task", "metric", "a", "b", "delta", "ci_low", "ci_high")
    return {
        "kind": kind,
        **{key: item[key] for key in kept},
        "margin": margin,
        "verdict": verdict,
        "passed": passed,
    }


def require_passed(report: Report, config: EvalConfig) -> None:
    """Raise RefusedError, a line with its numbers for each check that failed."""
    failed = [check for check in (report["gate"] or {}).get("checks", []) if not check["passed"]]
    if failed:
        raise RefusedError([_refusal(check, report, config) for check in failed])


def _refusal(check: Item, report: Report, config: EvalConfig) -> str:
    advice = "train on more or cleaner rows, or keep the base"
    if check["verdict"] == INCONCLUSIVE:
        advice = "enlarge the test set or train further, or set eval.accept_inconclusive=true"
    if check["kind"] == SUPERIORITY:
        item = next(item for item in contests(report, config) if item["a"] == check["a"])
        return f"{sentence(item)}; {advice}"
    said = "lost" if check["verdict"] == INFERIOR else "a loss is not excluded"
    return (
        f"{said}: {check['b']} minus {check['a']} on {check['task']} {check['metric']} is {check['delta']:+.4f} "
        f"[{check['ci_low']:+.4f}, {check['ci_high']:+.4f}], which must lie above -{check['margin']:g}; {advice}"
    )


def overrides(report: Report) -> list[str]:
    """What the manifest records where only an override lets the report pass."""
    checks = (report["gate"] or {}).get("checks", [])
    forced = any(check["passed"] and check["verdict"] not in (BETTER, NOT_INFERIOR) for check in checks)
    return ["eval.accept_inconclusive"] if forced and report["gate"]["passed"] else []


def sentence(item: Item) -> str:
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
