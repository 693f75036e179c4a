"""Small predictions that the tests of this folder share."""

from collections.abc import Callable, Sequence

import pytest

from eval.predictions import Prediction

Make = Callable[..., list[Prediction]]


@pytest.fixture
def make() -> Make:
    """Predictions of one arm from gold answers, given answers and optional groups."""

    def build(
        gold: Sequence[str],
        answers: Sequence[str | None],
        groups: Sequence[str] | None = None,
        arm: str = "adapter",
    ) -> list[Prediction]:
        return [
            Prediction(
                id=f"row{index}",
                group=groups[index] if groups else f"group{index}",
                document=None,
                task="label",
                arm=arm,
                gold=target,
                prediction=answer,
                raw=answer or "",
                score=float(answer == target),
                confidence=None,
                label_scores=None,
            )
            for index, (target, answer) in enumerate(zip(gold, answers, strict=True))
        ]

    return build
