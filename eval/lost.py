"""What was lost: calibration, slices with the worst named, drift of form, forgotten abilities (docs/lost.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.arms import ADAPTER, BASE
from eval.drift import drift
from eval.metrics.calibration import calibration
from eval.report.summary import ArmPredictions, of_task
from eval.slices import Sliced, compare_slices, worst
from eval.tasks import Task
from eval.tasks.task import Row
from finetune.config.eval import EvalConfig
from finetune.generate import Answer


def sections(
    tasks: Sequence[Task],
    predictions: ArmPredictions,
    metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    asked: tuple[Sequence[Row], Mapping[str, Sequence[Answer]]],
    config: EvalConfig,
    show_labels: bool,
) -> dict[str, Any]:
    """Of report.json: `calibration`, `slices`, `slices_too_small`, `worst_slice` and `drift`.

    `metrics` are the report's `arms`; `asked` are the test rows and every arm's answers to them.
    """
    rows, answers = asked
    sliced = _sliced(tasks, predictions, rows, config, show_labels)
    return {
        "calibration": {
            task.name: {arm: calibration(of_task(task, found)) for arm, found in predictions.items()}
            for task in tasks
        },
        "slices": sliced.shown,
        "slices_too_small": sliced.too_small,
        "worst_slice": worst(sliced.shown),
        "drift": {
            task.name: {
                arm: drift(task, rows, found, metrics[arm][task.name]) for arm, found in answers.items()
            }
            for task in tasks
        },
    }


def _sliced(
    tasks: Sequence[Task],
    predictions: ArmPredictions,
    rows: Sequence[Row],
    config: EvalConfig,
    show_labels: bool,
) -> Sliced:
    """The adapter against its base; nothing where one of them did not answer."""
    if not {ADAPTER, BASE} <= predictions.keys():
        return Sliced([], [])
    base, adapter = (
        {task.name: of_task(task, predictions[arm]) for task in tasks} for arm in (BASE, ADAPTER)
    )
    return compare_slices(tasks, (base, adapter), rows, config, show_labels)
