"""How often the gate errs where the adapter must beat the best of several arms.

    .venv/bin/python -m scripts.check_gate            # 1,000 test sets a case, a minute

Each case draws test sets of 300 rows in 150 groups, judges them by the report's own statistics and gate, and counts
`better` and `worse`; beside it stands what the test against the best arm of the same rows alone would have said.

tied: adapter, base, few_shot and majority are right on half of the rows, each by its own luck.
twin: few_shot is the adapter with 6 % of its right answers spoiled, majority far below; base is as good as the adapter.
gain: the adapter is right on 65 % of the rows, the others on 50 %.
"""

import argparse
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import gate, stats
from finetune.config.eval import EvalConfig, TaskConfig, TaskKind

ROWS, GROUP = 300, 2
Right = NDArray[np.bool_]


def outcomes(case: str, source: np.random.Generator) -> dict[str, Right]:
    """Which rows each arm answers right."""
    shares = {"base": 0.5, "few_shot": 0.5, "adapter": 0.65 if case == "gain" else 0.5, "majority": 0.5}
    found = {arm: source.random(ROWS) < share for arm, share in shares.items()}
    if case == "twin":
        found["few_shot"] = found["adapter"] & (source.random(ROWS) >= 0.06)
        found["majority"] = source.random(ROWS) < 0.2
    return found


def judged(arms: dict[str, Right], config: EvalConfig) -> dict[str, Any]:
    """The comparisons of the report on these answers, their verdicts held together as the report does it."""
    groups = np.arange(ROWS) // GROUP
    names = [arm for arm in arms if arm != "adapter"]
    found = [
        stats.estimate(
            stats.mean_difference(arms[arm].astype(float), arms["adapter"].astype(float), groups), config
        )
        for arm in names
    ]
    items = [
        {
            "a": arm,
            "b": "adapter",
            "task": "label",
            "metric": "exact_match",
            "low": item.low,
            "high": item.high,
            "p_adjusted": adjusted,
            "verdict": stats.verdict(item, config.min_gain, config.confidence),
        }
        for arm, item, adjusted in zip(names, found, stats.holm([item.p for item in found]), strict=True)
    ]
    shares = {arm: {"label": {"exact_match": float(right.mean())}} for arm, right in arms.items()}
    report = {"arms": shares, "comparisons": items}
    gate.hold_together(report, config)
    return report


def errors(case: str, draws: int, resamples: int = 1000) -> dict[str, float]:
    """Shares of test sets: `better` and `worse` by the gate, and by the best arm of the same rows alone."""
    config = EvalConfig(
        tasks={"label": TaskConfig(TaskKind.classification)}, primary="label", resamples=resamples
    )
    source = np.random.default_rng(7)
    counts = dict.fromkeys(("better", "worse", "best alone: better", "best alone: worse"), 0)
    for _ in range(draws):
        report = judged(outcomes(case, source), config)
        best = gate.contests(report, config)[0]
        alone = "better" if best["low"] > 0 else "worse" if best["high"] < 0 else ""
        for name in (gate.deciding(report, config)["verdict"], f"best alone: {alone}"):
            if name in counts:
                counts[name] += 1
    return {name: count / draws for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    for case in ("tied", "twin", "gain"):
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in errors(case, draws).items())
        print(f"{case}: {told} (Monte-Carlo error at 2.5 %: {100 * math.sqrt(0.025 * 0.975 / draws):.1f})")


if __name__ == "__main__":
    main()
