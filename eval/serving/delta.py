"""The task's metric on a server's answers against the adapter's own, with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from eval.comparison import Compared, compare
from eval.predictions import Prediction, pair
from eval.report.summary import of_task
from eval.serving.inputs import Row
from eval.tasks import make_tasks, predict_all
from finetune.config.eval import EvalConfig
from finetune.generate import Answer

SERVED, ADAPTER, MERGED = "served", "adapter", "merged"
KEPT = "a b task metric delta ci_low ci_high n n_groups value_a value_b verdict".split()


def task_delta(
    rows: Sequence[Row],
    served: Sequence[Answer],
    merged: Sequence[Answer],
    adapter: Sequence[Mapping[str, Any]] | None,
    config: EvalConfig,
) -> dict[str, Any]:
    """Served minus adapter on every task's metric, the primary task's on top; all `rows` are test rows.

    `adapter` are its predictions in the report; where there are none, the merged weights' answers stand in their place.
    """
    tasks = make_tasks(config)
    answers = {SERVED: served} if adapter is not None else {SERVED: served, MERGED: merged}
    found = predict_all(tasks, rows, answers)
    against = ADAPTER if adapter is not None else MERGED
    others = found[MERGED] if adapter is None else cast(Sequence[Prediction], adapter)
    compared = []
    for task in tasks:
        pairs = pair(of_task(task, others), of_task(task, found[SERVED]))
        statistic = task.differences(pairs).get(task.metric.name)
        if statistic is not None:
            names = Compared(against, SERVED, task.name, task.metric.name)
            item = compare(names, statistic, config)
            compared.append({key: getattr(item, key) for key in KEPT})
    first = compared[0] if compared and compared[0]["task"] == config.primary else {}
    return {"against": against, **first, "tasks": compared}
