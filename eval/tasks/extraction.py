"""Structured extraction: the answer is JSON that a schema beside the task describes."""

import json
from pathlib import Path

from eval.metrics import extraction as metrics
from eval.tasks.task import Row, Task, required
from finetune.chat import Target, render_answer
from finetune.config.eval import TaskConfig
from finetune.config.eval_checks import schema_path
from finetune.errors import ConfigError, DataError
from finetune.generate import Answer


def make(name: str, config: TaskConfig) -> Task:
    """Right where the answer's value is the target's, whatever the order of its keys. Raises ConfigError, no schema."""
    file = required(config.schema, "schema", config)
    path = schema_path(file)
    if path is None:
        raise ConfigError(f"eval.tasks.{name}.schema={file} does not exist; put it beside the task")
    return Task(
        name=name,
        metric=config.metric,
        read=_read,
        rights=metrics.rights,
        measures=metrics.measures(_schema(path)),
        compared=("exact_match", "micro_f1", "macro_f1"),
        where=config.where,
        files={file: path},
    )


def _schema(path: Path) -> dict[str, object] | bool:
    found: dict[str, object] | bool = json.loads(path.read_text(encoding="utf-8"))
    return found


def _read(row: Row, answer: Answer) -> tuple[Target, Target | None]:
    gold = metrics.parsed(render_answer(row["target"]))
    if gold is None:
        raise DataError(f"id {row['id']}: the target is no JSON; use kind=qa or classification for texts")
    return gold, metrics.parsed(answer.text)
