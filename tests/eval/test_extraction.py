"""Structured answers: the rates of form are nested and stand apart from what the answers say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.tasks import Task, make_task, records
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.config.schema import PathsConfig
from finetune.errors import DataError
from finetune.generate import Answer

SCHEMA = {
    "type": "object",
    "required": ["law", "parties"],
    "additionalProperties": False,
    "properties": {
        "law": {"enum": ["Delaware", "New York"]},
        "term_months": {"type": "integer"},
        "parties": {"type": "array", "items": {"type": "string"}},
    },
}
GOLD = {"law": "Delaware", "term_months": 12, "parties": ["Acme", "Beta"]}


@pytest.fixture
def task(private: Path) -> Callable[..., Task]:
    """A task whose schema stands beside it in CONF_DIR."""

    def make(schema: Any = SCHEMA) -> Task:
        (private / "conf/eval/terms.schema.json").write_text(json.dumps(schema))
        config = TaskConfig(TaskKind.extraction, Metric.micro_f1, schema="terms.schema.json")
        return make_task("terms", config)

    return make


def measured(task: Task, *answers: str, gold: Any = GOLD) -> dict[str, float | None]:
    rows = [
        {"id": f"r{index}", "group": f"g{index}", "target": json.dumps(gold)} for index in range(len(answers))
    ]
    return task.measure(task.predict(rows, [Answer(text, None, ()) for text in answers], "adapter"), set())


def test_rates_are_nested_and_the_metric_comes_after(task: Callable[..., Task]) -> None:
    """Whole; another law, in the list; one that is not; no party list; prose."""
    found = measured(
        task(),
        '{"parties":["Acme","Beta"],"term_months":12.0,"law":"Delaware"}',
        '{"law":"New York","parties":["Acme"]}',
        '{"law":"Utah","parties":["Beta","Acme"]}',
        '{"law":"Delaware","term_months":"12"}',
        "The law is Delaware.",
    )
    assert (found["parse_rate"], found["vocabulary_rate"], found["schema_rate"]) == (0.8, 0.6, 0.4)
    assert found["exact_match"] == 0.2
    # values: gold 4 in each of 5 rows, given 4 + 2 + 3 + 2, hits 4 + 1 + 2 + 1
    assert found["micro_f1"] == pytest.approx(2 * 8 / (20 + 11))
    # law: hits 2, given 4, gold 5; term_months: 1, 2, 5; parties[]: 5, 5, 10
    assert found["macro_f1"] == pytest.approx((4 / 9 + 2 / 7 + 10 / 15) / 3)


def test_a_value_counts_as_often_as_it_stands_there(task: Callable[..., Task]) -> None:
    found = measured(task(True), '["a","a","a"]', gold=["a", "a", "b"])
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["vocabulary_rate"] is None  # the schema lists no values


def test_a_schema_may_refer_to_its_own_definitions(task: Callable[..., Task]) -> None:
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"law": {"enum": ["Utah"]}},
    }
    schema["properties"] = {"law": {"$ref": "#/$defs/law"}}
    found = measured(task(schema), '{"law":"Ohio"}', '{"law":"Utah"}')
    assert (found["schema_rate"], found["vocabulary_rate"]) == (0.5, 0.5)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "", '{"a":1} and more', "9" * 5000])
def test_what_is_no_json_does_not_parse(task: Callable[..., Task], text: str) -> None:
    assert measured(task(), text)["parse_rate"] == 0.0


def test_true_is_not_one_and_the_order_of_a_list_counts(task: Callable[..., Task]) -> None:
    assert measured(task(True), "[true]", gold=[1])["micro_f1"] == 0.0
    assert measured(task(True), "[2,1]", gold=[1, 2])["exact_match"] == 0.0


def test_a_gold_answer_that_is_no_json_is_refused_without_its_text(task: Callable[..., Task]) -> None:
    with pytest.raises(DataError, match="id r1: the target is no JSON") as caught:
        task().predict([{"id": "r1", "group": "g", "target": "secret"}], [Answer("{}", None, ())], "adapter")
    assert "secret" not in str(caught.value)


def test_another_schema_makes_another_report(task: Callable[..., Task], private: Path) -> None:
    paths = PathsConfig(artifacts_root=str(private))
    before, again, after = (records([task(schema)], paths)["task terms"] for schema in (SCHEMA, SCHEMA, True))
    assert before == again
    assert before["content"] != after["content"]
