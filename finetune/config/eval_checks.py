"""Settings of the evaluation that are well typed and still cannot work."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config.data_checks import kind_problems
from finetune.config.eval import EvalConfig, Metric, Scoring, TaskConfig, TaskKind
from finetune.config.folders import conf_folders
from finetune.config.messages import closest

TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
WHERE = ("language", "question")
"""Fields of a row that hold a value of the user's own."""
LABELS = {Metric.exact_match, Metric.micro_f1, Metric.macro_f1}
TASK_METRICS = {
    TaskKind.classification: {*LABELS, Metric.balanced_accuracy, Metric.in_scope_accuracy, Metric.oos_recall},
    TaskKind.multi_label: {*LABELS, Metric.precision_at_8},
    TaskKind.extraction: LABELS,
    TaskKind.spans: {
        *LABELS,
        Metric.aupr,
        Metric.precision_at_80_recall,
        Metric.cuad_aupr,
        Metric.cuad_precision_at_80_recall,
        Metric.cuad_precision_at_90_recall,
    },
    TaskKind.coding: {*LABELS, Metric.precision_at_8, Metric.category_f1, Metric.chapter_f1},
    TaskKind.qa: {Metric.exact_match, Metric.f1},
}
TASK_FIELDS: dict[TaskKind, set[str]] = {
    TaskKind.classification: {"out_of_scope"},
    TaskKind.multi_label: {"ranked"},
    TaskKind.extraction: {"schema"},
    TaskKind.spans: set(),
    TaskKind.coding: {"package", "ranked"},
    TaskKind.qa: set(),
}
OPTIONAL = {"out_of_scope", "ranked"}
SCORED = (TaskKind.classification, TaskKind.coding)
"""Kinds whose answer is one of a set of labels, if the rows' targets are texts."""


def eval_problems(config: EvalConfig) -> Iterator[str]:
    """Every problem of the eval section: key, value, what is allowed, what to do."""
    if config.primary not in config.tasks:
        known = ", ".join(config.tasks) or "none"
        yield f"eval.primary={config.primary} is not one of eval.tasks ({known})"
    if config.confidence == 1:
        yield f"eval.confidence={config.confidence} must be below 1; no finite interval is certain"
    if 0 < config.resamples < 100:
        yield f"eval.resamples={config.resamples} is too few for an interval's ends; use at least 100"
    for name, task in config.tasks.items():
        if not TASK_NAME.fullmatch(name):
            yield f"eval.tasks.{name} becomes part of names; use letters, digits, '.', '_' and '-'"
        if config.scoring is Scoring.labels and task.kind not in SCORED:
            yield (
                f"eval.scoring=labels chooses one label a row, which eval.tasks.{name}.kind={task.kind.name} has not; "
                "use eval.scoring=generate"
            )
        yield from _task(f"eval.tasks.{name}", task)


def schema_path(name: str) -> Path | None:
    """The schema file of a task, in conf/eval or CONF_DIR/eval; None where there is none."""
    found = [root / "eval" / name for root in conf_folders()]
    return next((path for path in found if path.is_file()), None)


def _task(key: str, task: TaskConfig) -> Iterator[str]:
    yield from kind_problems(key, task, TASK_FIELDS, OPTIONAL)
    allowed = sorted(metric.name for metric in TASK_METRICS[task.kind])
    if task.metric.name not in allowed:
        yield (
            f"{key}.metric={task.metric.name} is no metric of kind={task.kind.name}; one of: {', '.join(allowed)}"
        )
    if task.metric in (Metric.in_scope_accuracy, Metric.oos_recall) and task.out_of_scope is None:
        yield f"{key}.metric={task.metric.name} needs {key}.out_of_scope, the label of rows outside the others"
    for name in task.where:
        if name not in WHERE:
            yield f"{key}.where.{name} is no field to choose rows by{closest(name, WHERE)}; one of: {', '.join(WHERE)}"
    if task.schema is not None and task.kind is TaskKind.extraction:
        yield from _schema(f"{key}.schema", task.schema)


def _schema(key: str, name: str) -> Iterator[str]:
    if Path(name).name != name:
        yield f"{key}={name} must be a file's name, without folders: it stands beside the task"
        return
    path = schema_path(name)
    if path is None:
        places = " or ".join(str(root / "eval") for root in conf_folders())
        yield f"{key}={name} does not exist; put it into {places}"
        return
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        yield f"{key}={name} is not readable JSON ({type(error).__name__}); correct {path}"
        return
    yield from _invalid(key, name, schema)


def _invalid(key: str, name: str, schema: Any) -> Iterator[str]:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        yield f"{key}={name} is no JSON Schema: {error.json_path}: {error.message.splitlines()[0]}"
        return
    for target in dict.fromkeys(_references(schema)):
        if not target.startswith("#"):
            yield f"{key}={name} refers to {target}, outside the file, and nothing is fetched; copy it into $defs"
        elif not _is_there(schema, target):
            yield f"{key}={name} refers to {target}, which the file does not have; add it, or correct the reference"


def _is_there(schema: Any, target: str) -> bool:
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    root: Resource[Any] = Resource.from_contents(schema, default_specification=DRAFT202012)
    try:
        Registry().with_resource("", root).resolver().lookup(target)
    except Unresolvable:
        return False
    return True


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)
