"""Settings of the evaluation that are well typed and still cannot work."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config.data_checks import kind_problems
from finetune.config.eval import (
    DELIVERED,
    Arm,
    Engine,
    EvalConfig,
    ForgettingConfig,
    Metric,
    Reference,
    Scoring,
    TaskConfig,
    TaskKind,
)
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
MIN_SUITE_ROWS = 8
"""As many items, each a group of its own, as any verdict needs (eval.stats)."""
OPTIONAL = {"out_of_scope", "ranked"}
MOST_HOURS = 744.0
"""Of 31 days."""
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
    yield from _forgetting(config.forgetting)
    hours = config.costs.server_hours_per_month
    if not 0 < hours <= MOST_HOURS:
        yield f"eval.costs.server_hours_per_month={hours} must be above 0 and at most {MOST_HOURS:g}, a month's hours"
    for name, task in config.tasks.items():
        if not TASK_NAME.fullmatch(name):
            yield f"eval.tasks.{name} becomes part of names; use letters, digits, '.', '_' and '-'"
        if config.scoring is Scoring.labels and task.kind not in SCORED:
            yield (
                f"eval.scoring=labels chooses one label a row, which eval.tasks.{name}.kind={task.kind.name} has not; "
                "use eval.scoring=generate"
            )
        yield from _task(f"eval.tasks.{name}", task)
    yield from _arms(config)
    yield from _reference(config)
    yield from _margins(config)


def margin_of(key: str, config: EvalConfig) -> tuple[str, str] | None:
    """The task and metric that an entry of eval.margins is about; None where there is no such one."""
    if key in config.tasks:
        return key, config.tasks[key].metric.name
    name, _, metric = key.rpartition(".")
    known = {item.name for item in TASK_METRICS[config.tasks[name].kind]} if name in config.tasks else set()
    return (name, metric) if metric in known else None


def _arms(config: EvalConfig) -> Iterator[str]:
    shown = ", ".join(arm.name for arm in config.arms)
    doubled = sorted({arm.name for arm in config.arms if config.arms.count(arm) > 1})
    if doubled:
        yield f"eval.arms=[{shown}] names {', '.join(doubled)} more than once; name each arm once"
    if delivered(config):
        yield from _delivered(config, shown)
    elif config.engine is Engine.vllm:
        yield (
            f"eval.engine=vllm answers for merged weights alone, and eval.arms=[{shown}] stand on the 4-bit base, "
            "which vLLM does not compute alike; use eval.arms=[merged], or eval.engine=transformers"
        )
    elif Arm.adapter not in config.arms:
        yield f"eval.arms=[{shown}] lacks adapter, which every comparison is about; add it"
    elif len(set(config.arms)) == 1 and config.against is None:
        yield f"eval.arms=[{shown}] compares the adapter with nothing; add base, or eval.against=<run>"


def delivered(config: EvalConfig) -> list[Arm]:
    """The arms that stand beside the adapter alone, in their order."""
    return [arm for arm in DELIVERED if arm in config.arms]


def _delivered(config: EvalConfig, shown: str) -> Iterator[str]:
    names = ",".join(arm.name for arm in delivered(config))
    if set(config.arms) - {Arm.adapter, *DELIVERED}:
        yield (
            f"eval.arms=[{shown}] names {names} beside arms of the gate, in which it has no part; use "
            f"eval.arms=[{names}], which is compared with the adapter"
        )
    if config.against is not None:
        yield f"eval.arms=[{shown}] and eval.against={config.against} are two evaluations; set eval.against=null"
    if config.engine is Engine.vllm and Arm.merged not in config.arms:
        yield f"eval.engine=vllm answers for merged weights, which eval.arms=[{shown}] does not ask; leave it out"
    if config.scoring is Scoring.labels and (config.engine is Engine.vllm or Arm.served in config.arms):
        yield f"eval.arms=[{shown}]: a server generates answers and scores no labels; use eval.scoring=generate"


def _reference(config: EvalConfig) -> Iterator[str]:
    if delivered(config):
        return  # compared with the adapter alone, whoever the gate's reference is
    name = config.reference.name
    if config.reference is Reference.champion:
        if config.against is None:
            yield "eval.reference=champion needs eval.against, the run id of the adapter in service"
    elif config.reference is not Reference.auto and Arm[name] not in config.arms:
        yield f"eval.reference={name} is not one of eval.arms; add {name} to them, or choose another reference"


def _margins(config: EvalConfig) -> Iterator[str]:
    if config.margins and Arm.base not in config.arms and not delivered(config):
        yield "eval.margins are losses against the base, which is not one of eval.arms; add base to them"
    for key, margin in config.margins.items():
        if not 0 < margin < math.inf:
            yield f"eval.margins.{key}={margin} must be above 0 and finite; a margin of 0 excludes no loss"
        if margin_of(key, config) is None:
            known = ", ".join(
                f"{name}, {name}.<{' or '.join(sorted(item.name for item in TASK_METRICS[task.kind]))}>"
                for name, task in config.tasks.items()
            )
            yield f"eval.margins.{key} is no task and no task.metric; one of: {known}"


def _forgetting(config: ForgettingConfig) -> Iterator[str]:
    if config.rows is not None and config.rows < MIN_SUITE_ROWS:
        yield (
            f"eval.forgetting.rows={config.rows} shows nothing; use at least {MIN_SUITE_ROWS}, null for all, or "
            "eval.forgetting.suites=[]"
        )
    asked = [suite.name for suite in config.suites]
    for name, margin in config.margins.items():
        key = f"eval.forgetting.margins.{name}"
        if name not in asked:
            known = ", ".join(asked) or "none"
            yield f"{key} is none of eval.forgetting.suites ({known}){closest(name, asked)}"
        if not 0 < margin < 1:
            yield f"{key}={margin} must lie above 0 and below 1, such as 0.05 for 5 points"


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
