"""What holds for every kind of task: its metrics are those of the schema, and say over what they average."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.predictions import Prediction, pair
from eval.report import page, summary, terminal
from eval.tasks import Task, make_task, make_tasks, predict_all
from finetune.chat import render_answer
from finetune.config.eval import EvalConfig, Metric, TaskConfig, TaskKind
from finetune.config.eval_checks import TASK_METRICS
from finetune.errors import ConfigError, DataError
from finetune.generate import Answer

FIELDS: dict[TaskKind, dict[str, Any]] = {
    TaskKind.classification: {"out_of_scope": "oos"},
    TaskKind.multi_label: {"ranked": True},
    TaskKind.extraction: {"schema": "any.schema.json"},
    TaskKind.spans: {},
    TaskKind.coding: {"package": "simple_icd_10_cm"},
    TaskKind.qa: {},
}


@pytest.fixture
def config(private: Path) -> dict[TaskKind, TaskConfig]:
    """A task of each kind."""
    (private / "conf/eval/any.schema.json").write_text("{}")
    return {kind: TaskConfig(kind, **fields) for kind, fields in FIELDS.items()}


def task(kind: TaskKind, config: dict[TaskKind, TaskConfig]) -> Task:
    if kind is TaskKind.coding:
        pytest.importorskip(
            "simple_icd_10_cm", reason="the package with the ICD-10-CM tables is not installed"
        )
    return make_task("task", config[kind])


@pytest.mark.parametrize("kind", TaskKind)
def test_every_metric_of_the_schema_is_there_and_explained(
    kind: TaskKind, config: dict[TaskKind, TaskConfig]
) -> None:
    made = task(kind, config)
    names = set(made.measures)
    assert {metric.name for metric in TASK_METRICS[kind]} <= names
    assert set(made.compared) <= {metric.name for metric in TASK_METRICS[kind]}
    guide = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
    for name, measure in made.measures.items():
        assert measure.averages
        assert f"`{name}`" in guide


GOLD: dict[TaskKind, tuple[Any, Any]] = {
    TaskKind.multi_label: (["a"], ["b"]),
    TaskKind.spans: (["a b"], ["c d"]),
    TaskKind.coding: ("I10", "E11.9"),
}


def rows(kind: TaskKind) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{index}",
            "group": f"g{index}",
            "document": f"d{index}",
            "question": "Law",
            "target": GOLD.get(kind, ("7", "8"))[index % 3 == 0],
            "language": "de" if index % 2 else "en",
        }
        for index in range(20)
    ]


def arms(made: Task, kind: TaskKind) -> dict[str, list[Prediction]]:
    """An adapter that is always right, a base that is right on every other row, floors without confidence."""
    held_out = rows(kind)
    right = [render_answer(row["target"]) for row in held_out]
    answers = {
        "base": [Answer(text if index % 2 else "?", 0.6, ()) for index, text in enumerate(right)],
        "adapter": [Answer(text, 0.9, ()) for text in right],
        "majority": [Answer("[]", None, ()) for _ in right],
        "svm": [Answer(text, None, ()) for text in right],
    }
    return predict_all([made], held_out, answers)


@pytest.mark.parametrize("kind", TaskKind)
def test_report_page_and_terminal_take_every_kind(kind: TaskKind, config: dict[TaskKind, TaskConfig]) -> None:
    made = task(kind, config)
    settings = EvalConfig(tasks={"task": config[kind]}, primary="task", resamples=200)
    predictions = arms(made, kind)
    report = summary.summarise(make_tasks(settings), predictions, {"a", "7"}, settings)
    assert report["verdict"] == "better"
    assert report["arms"]["adapter"]["task"]["exact_match"] == 1.0
    assert {item["metric"] for item in report["comparisons"] if item["a"] == "base"} >= {"exact_match"}
    json.dumps(report, allow_nan=False)
    html = page.render("toy", report, predictions, [], settings, page.Shown(True))
    assert "None" not in html
    assert len(list(terminal.lines(report, settings))) == 6
    assert all(value is not None for value in summary.numbers(report).values())
    assert ("Law" in json.dumps(report["labels"])) == (kind is TaskKind.spans)


def test_null_metrics_are_shown_as_missing(config: dict[TaskKind, TaskConfig]) -> None:
    """The SVM has no confidence, so no area: a verdict on it stands all the same, on the arms that have one."""
    settings = EvalConfig(
        tasks={"task": TaskConfig(TaskKind.spans, Metric.aupr)}, primary="task", resamples=200
    )
    predictions = arms(make_tasks(settings)[0], TaskKind.spans)
    report = summary.summarise(make_tasks(settings), predictions, set(), settings)
    assert report["arms"]["svm"]["task"]["aupr"] is None
    assert report["verdict"] == "better"
    html = page.render("toy", report, predictions, [], settings, page.Shown(True))
    assert "n/a" in html
    assert "Beside it, whoever wins" not in html
    svm = next(line for line in terminal.lines(report, settings) if line.split()[0] == "svm")
    assert svm.split().count("-") == 5
    assert not [name for name in summary.numbers(report) if "svm/aupr" in name]


@pytest.mark.parametrize("others", ['["a","b"]', '["a"]'])
def test_a_primary_metric_without_a_value_is_refused(others: str, private: Path) -> None:
    """Two labels without a ranking; a single one needs none."""
    settings = EvalConfig(
        tasks={"task": TaskConfig(TaskKind.multi_label, Metric.precision_at_8)}, primary="task", resamples=200
    )
    (made,) = make_tasks(settings)
    held_out = rows(TaskKind.multi_label)
    answers = {arm: [Answer(others, 0.5, ())] * 20 for arm in ("base", "majority", "svm")}
    answers["adapter"] = [Answer('["a","b"]', 0.5, ())] * 20
    with pytest.raises(ConfigError, match="eval.tasks.task.metric=precision_at_8 has no value"):
        summary.summarise([made], predict_all([made], held_out, answers), set(), settings)


def test_a_task_may_read_some_of_the_rows(config: dict[TaskKind, TaskConfig]) -> None:
    held_out, answers = rows(TaskKind.qa), [Answer("7", 0.5, ())] * 20
    german = make_task("german", TaskConfig(TaskKind.qa, where={"language": "de"}))
    assert [row["id"] for row in german.predict(held_out, answers, "base")] == [
        f"r{n}" for n in range(1, 20, 2)
    ]
    with pytest.raises(DataError, match="no test row has language=fr .eval.tasks.french.where."):
        make_task("french", TaskConfig(TaskKind.qa, where={"language": "fr"})).predict(
            held_out, answers, "base"
        )


@pytest.mark.parametrize("kind", TaskKind)
def test_an_arm_against_itself_differs_by_nothing(kind: TaskKind, config: dict[TaskKind, TaskConfig]) -> None:
    found = arms(task(kind, config), kind)["base"]
    for name, statistic in task(kind, config).differences(pair(found, found)).items():
        weights = [[1.0] * 20, [2.0] * 10 + [0.0] * 10]
        assert statistic.value(np.array(weights)).tolist() == [0.0, 0.0], name
