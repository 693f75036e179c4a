"""How long answers are."""

from collections.abc import Mapping, Sequence

import numpy as np

from eval.predictions import Prediction
from finetune.chat import render_answer

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
GOLD = "gold"


def lengths(arms: Mapping[str, Sequence[Prediction]]) -> dict[str, list[float]]:
    """By arm, gold answers first, the 5, 25, 50, 75 and 95 % quantiles of an answer's characters."""
    gold = [len(render_answer(row["gold"])) for row in next(iter(arms.values()))]
    found = {arm: [len(row["raw"]) for row in rows] for arm, rows in arms.items()}
    return {name: np.quantile(counted, SHARES).tolist() for name, counted in {GOLD: gold, **found}.items()}
