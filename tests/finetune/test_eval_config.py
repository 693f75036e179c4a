"""Tasks as files: a private one is read from CONF_DIR, and all that is wrong with one is said at once."""

import json
from pathlib import Path

import pytest

from finetune.config import load
from finetune.config.eval import Metric, TaskConfig, TaskKind
from finetune.errors import ConfigError

ARGV = ["experiment=tiny", "eval=terms"]
SCHEMA = {"type": "object", "properties": {"law": {"enum": ["Utah", "Ohio"]}}}


def write(private: Path, tasks: str, primary: str = "terms") -> None:
    (private / "conf/eval/terms.yaml").write_text(f"primary: {primary}\ntasks:\n{tasks}")


def problems(*more: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([*ARGV, *more])
    assert caught.value.exit_code == 2
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def test_a_private_task_needs_no_code(private: Path) -> None:
    (private / "conf/eval/terms.schema.json").write_text(json.dumps(SCHEMA))
    write(
        private,
        "  terms: {kind: extraction, metric: micro_f1, schema: terms.schema.json, where: {language: de}}\n",
    )
    assert load(ARGV).eval.tasks == {
        "terms": TaskConfig(
            TaskKind.extraction, Metric.micro_f1, where={"language": "de"}, schema="terms.schema.json"
        )
    }


def test_everything_wrong_is_said_at_once(private: Path) -> None:
    write(
        private,
        "  a: {kind: classification, metric: aupr, schema: x.json}\n"
        "  b: {kind: extraction, schema: gone.json, out_of_scope: oos}\n"
        "  c: {kind: coding, where: {lang: de}}\n"
        "  d: {kind: classification, metric: oos_recall}\n"
        "  e/f: {kind: qa}\n",
    )
    lines = problems()
    assert len(lines) == 9
    text = "\n".join(lines)
    for said in (
        "eval.primary=terms is not one of eval.tasks (a, b, c, d, e/f)",
        "eval.tasks.a.schema is set, but eval.tasks.a.kind=classification does not use it; remove it",
        "eval.tasks.a.metric=aupr is no metric of kind=classification; one of: balanced_accuracy, exact_match,",
        "eval.tasks.b.out_of_scope is set, but eval.tasks.b.kind=extraction does not use it; remove it",
        f"eval.tasks.b.schema=gone.json does not exist; put it into {Path('conf/eval').absolute()}",
        "eval.tasks.c.package is not set; eval.tasks.c.kind=coding needs it",
        "eval.tasks.c.where.lang is no field to choose rows by; did you mean language?",
        "eval.tasks.d.metric=oos_recall needs eval.tasks.d.out_of_scope",
        "eval.tasks.e/f becomes part of names",
    ):
        assert said in text


def test_what_is_asked_of_slices_and_suites_is_checked(private: Path) -> None:
    write(private, "  terms: {kind: qa}\n")
    with (private / "conf/eval/terms.yaml").open("a") as stream:
        stream.write(
            "forgetting: {rows: 4, max_new_tokens: 0, margins: {own_knowledg: 0.1, own_instructions: 5}}\n"
        )
    assert problems() == [
        "eval.forgetting.max_new_tokens=0 must be above 0 and finite",
        "eval.forgetting.rows=4 shows nothing; use at least 8, null for all, or eval.forgetting.suites=[]",
        "eval.forgetting.margins.own_knowledg is none of eval.forgetting.suites (own_instructions, own_knowledge); "
        "did you mean own_knowledge?",
        "eval.forgetting.margins.own_instructions=5.0 must lie above 0 and below 1, such as 0.05 for 5 points",
    ]
    write(private, "  terms: {kind: qa}\nforgetting: {suites: [own]}\n")
    assert "expected one of [own_instructions, own_knowledge, ifeval," in problems()[0]
    write(private, "  terms: {kind: qa}\nslices: [colour]\n")
    assert "expected one of [label, length, source, language, time]" in problems()[0]


def test_arms_reference_and_margins_are_checked_together(private: Path) -> None:
    write(private, "  terms: {kind: classification}\n  v1.2: {kind: qa}\n")
    arms = load(ARGV).eval.arms
    assert [arm.name for arm in arms] == "base few_shot adapter adapter_few_shot majority svm".split()
    assert load([*ARGV, "+eval.margins={v1.2: 0.1, v1.2.f1: 0.1, terms.oos_recall: 0.1}"]).eval.margins
    lines = problems(
        "eval.arms=[few_shot,svm,svm]",
        "eval.reference=base",
        "+eval.margins={terms.f1: 0.1, nothing: 0.1, terms: 0}",
    )
    told = (
        "eval.arms=[few_shot, svm, svm] names svm more than once; name each arm once",
        "eval.arms=[few_shot, svm, svm] lacks adapter, which every comparison is about; add it",
        "eval.reference=base is not one of eval.arms; add base to them, or choose another reference",
        "eval.margins are losses against the base, which is not one of eval.arms; add base to them",
        "eval.margins.terms.f1 is no task and no task.metric; one of: terms, terms.<balanced_accuracy or ",
        "eval.margins.nothing is no task and no task.metric",
        "eval.margins.terms=0.0 must be above 0 and finite",
    )
    assert len(lines) == len(told)
    assert all(any(line.startswith(start) for line in lines) for start in told)
    assert problems("eval.arms=[adapter]")[0].startswith(
        "eval.arms=[adapter] compares the adapter with nothing"
    )
    assert "needs eval.against" in problems("eval.reference=champion")[0]
    assert "expected one of [base, few_shot, adapter," in problems("eval.arms=[base,fewshot]")[0]
    assert problems("eval.shots=0") == ["eval.shots=0 must be above 0 and finite"]


def test_an_unknown_field_or_metric_names_the_known_ones(private: Path) -> None:
    write(private, "  terms: {kind: qa, metrik: f1}\n")
    (line,) = problems()
    assert line.startswith(
        "eval.tasks.terms.metrik is not a known key; did you mean eval.tasks.terms.metric?"
    )
    assert "known here: kind, metric, where" in line
    write(private, "  terms: {kind: qa, metric: bleu}\n")
    (line,) = problems()
    assert "Invalid value 'bleu', expected one of [exact_match, micro_f1," in line
    write(private, "  terms: {kind: translation}\n")
    assert "expected one of [classification, multi_label," in problems()[0]
    write(private, "  terms: {metric: f1}\n")
    assert problems() == ["eval.tasks.terms.kind is not set; give it a value"]


def test_unknown_fields_behind_plus_are_found_in_every_task(private: Path) -> None:
    write(private, "  terms: {kind: qa}\n  b: {kind: qa}\n")
    assert problems("+eval.tasks.terms.metrik=f1", "+eval.tasks.b.wheer=x") == [
        "eval.tasks.terms.metrik is not a known key; did you mean eval.tasks.terms.metric?",
        "eval.tasks.b.wheer is not a known key; did you mean eval.tasks.b.where?",
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("terms.schema.json", "{", "eval.tasks.terms.schema=terms.schema.json is not readable JSON"),
        ("terms.schema.json", '{"type": "nonsense"}', "is no JSON Schema: $.type: 'nonsense' is not valid"),
        (
            "terms.schema.json",
            '{"properties": {"a": {"$ref": "https://example.org/x.json"}}}',
            "refers to https://example.org/x.json, outside the file, and nothing is fetched; copy it into $defs",
        ),
        (
            "terms.schema.json",
            '{"$defs": {"b": {}}, "properties": {"a": {"$ref": "#/$defs/gone"}, "b": {"$ref": "#/$defs/b"}}}',
            "refers to #/$defs/gone, which the file does not have; add it, or correct the reference",
        ),
        ("../terms.schema.json", "{}", "must be a file's name, without folders"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_before_anything_runs(
    private: Path, name: str, text: str, told: str
) -> None:
    (private / "conf/eval/terms.schema.json").write_text(text)
    write(private, f"  terms: {{kind: extraction, schema: {name}}}\n")
    (line,) = problems()
    assert told in line


def test_labels_are_scored_only_where_an_answer_is_one_label(private: Path) -> None:
    write(private, "  terms: {kind: qa}\n")
    assert problems("eval.scoring=labels", "eval.batch_tokens=0") == [
        "eval.batch_tokens=0 must be above 0 and finite",
        "eval.scoring=labels chooses one label a row, which eval.tasks.terms.kind=qa has not; "
        "use eval.scoring=generate",
    ]
