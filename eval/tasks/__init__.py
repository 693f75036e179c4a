"""Tasks, one file a kind: how answers become predictions, and which metrics measure them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.predictions import Prediction
from eval.tasks import classification, coding, extraction, multi_label, qa, spans
from eval.tasks.task import Task
from finetune.artifacts.hashing import HashCache, content_of
from finetune.config.eval import EvalConfig, TaskConfig, TaskKind
from finetune.config.schema import PathsConfig
from finetune.generate import Answer

__all__ = ["Task", "make_task", "make_tasks", "predict_all", "records"]

MAKERS: dict[TaskKind, Callable[[str, TaskConfig], Task]] = {
    TaskKind.classification: classification.make,
    TaskKind.multi_label: multi_label.make,
    TaskKind.extraction: extraction.make,
    TaskKind.spans: spans.make,
    TaskKind.coding: coding.make,
    TaskKind.qa: qa.make,
}


def make_task(name: str, config: TaskConfig) -> Task:
    """One task of a configuration."""
    return MAKERS[config.kind](name, config)


def make_tasks(config: EvalConfig) -> list[Task]:
    """The configured tasks, the one that decides the verdict first."""
    names = sorted(config.tasks, key=lambda name: name != config.primary)
    return [make_task(name, config.tasks[name]) for name in names]


def records(tasks: Sequence[Task], paths: PathsConfig) -> dict[str, dict[str, str]]:
    """What a report's manifest names beside its inputs: the files that decide the scores, such as schemas."""
    cache, found = HashCache(Path(paths.artifacts_root), paths.rehash), {}
    for task in tasks:
        digests = [{"path": name, "sha256": cache.digest(path)} for name, path in task.files.items()]
        if digests:
            record = {"stage": "task", "name": task.name, "run": "", "content": content_of(digests)}
            found[f"task {task.name}"] = record
    cache.save()
    return found


def predict_all(
    tasks: Sequence[Task], rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, list[Prediction]]:
    """The predictions of all tasks by arm: every task reads the same answers."""
    return {
        arm: [item for task in tasks for item in task.predict(rows, found, arm)]
        for arm, found in answers.items()
    }
