"""How often the gate errs where the adapter must beat the best of several arms.

    .venv/bin/python -m scripts.check_gate            # 1,000 test sets a case, about two minutes

Each case draws test sets of 300 rows in 150 groups, has the report's own summary judge them, and counts `better` and
`worse`; beside it stands what the test against the best arm of the same rows alone would have said.

tied: adapter, base, few_shot and majority are right on half of the rows, each by its own luck.
twin: few_shot is the adapter with 6 % of its right answers spoiled, majority far below; base is as good as the adapter.
gain: the adapter is right on 65 % of the rows, the others on 50 %.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from eval import gate
from eval.predictions import Prediction
from eval.report import summary
from eval.tasks import make_tasks
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


def predictions(arm: str, right: Right) -> list[Prediction]:
    """One arm's rows: two gold labels in turn, and a third that is always wrong."""
    return [
        Prediction(
            id=str(row),
            group=str(row // GROUP),
            document=None,
            task="label",
            arm=arm,
            gold="ab"[row % 2],
            prediction="ab"[row % 2] if hit else "c",
            raw="",
            score=float(hit),
            confidence=None,
            label_scores=None,
        )
        for row, hit in enumerate(right)
    ]


def errors(case: str, draws: int, resamples: int = 1000) -> dict[str, float]:
    """Shares of test sets: `better` and `worse` by the gate, and by the best arm of the same rows alone."""
    config = EvalConfig(
        tasks={"label": TaskConfig(TaskKind.classification)}, primary="label", resamples=resamples
    )
    source, tasks = np.random.default_rng(7), make_tasks(config)
    counts = dict.fromkeys(("better", "worse", "best alone: better", "best alone: worse"), 0)
    for _ in range(draws):
        arms = {arm: predictions(arm, right) for arm, right in outcomes(case, source).items()}
        report = summary.summarise(tasks, arms, {"a", "b"}, config)
        best = gate.contests(report, config)[0]
        alone = "better" if best["ci_low"] > 0 else "worse" if best["ci_high"] < 0 else ""
        for name in (report["verdict"], f"best alone: {alone}"):
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
