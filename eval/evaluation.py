"""One evaluation: arms answer, tasks score, the report is written."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval import arms, gate
from eval.cost import cost, measured, seconds_of
from eval.inputs import Inputs
from eval.report import page, summary
from eval.report.answered import answered
from eval.report.examples import pick
from eval.tasks import Task, predict_all
from finetune.artifacts import Output
from finetune.config import RunConfig
from finetune.console import say
from finetune.generate import Answer
from finetune.model import Loaded


def evaluate(run: RunConfig, tasks: list[Task], inputs: Inputs, output: Output) -> dict[str, Any]:
    """Write predictions, report.json and report.html; the report."""
    train, test = inputs.rows("train"), inputs.rows("test")
    vocabulary = inputs.vocabulary(train)
    say(f"{summary.foreseen(test, run.eval)}; the floors learn from {len(train)} rows")
    floors = {arms.MAJORITY: arms.majority(train, test), arms.SVM: arms.svm(train, test, run.eval.seed)}
    loaded = inputs.load(run.hardware)
    models = arms.models(loaded, run.eval, test)
    predictions = predict_all(tasks, test, {**models, **floors})
    for arm, rows in predictions.items():
        output.write_jsonl(f"predictions_{arm}.jsonl", rows)
    report = summary.summarise(tasks, predictions, vocabulary, run.eval)
    report |= answered(tasks, predictions, vocabulary, run.eval, inputs.has_label_set())
    report["cost"] = _cost(run, inputs, loaded, models, test)
    output.write_json("report.json", report)
    facts, shown = page.run_facts(inputs, run), _shown(run, inputs, tasks[0], predictions, test)
    output.write_text("report.html", page.render(run.name, report, predictions, facts, run.eval, shown))
    output.counts = {"rows": len(test), "train_rows": len(train), "answers_cut": arms.cut(models)}
    output.facts = {"template": loaded.renderer.template_hash(), "verdict": report["verdict"]}
    output.overrides = gate.overrides(report, run.eval)
    return report


def _cost(
    run: RunConfig, inputs: Inputs, loaded: Loaded, models: Mapping[str, Sequence[Answer]], test: arms.Rows
) -> dict[str, Any]:
    prompts = [loaded.renderer.prompt_ids(row["messages"]) for row in test]
    seconds = {arm: seconds_of(answers) for arm, answers in models.items()}
    own = measured(models[arms.ADAPTER], prompts)
    return cost(inputs.adapter, seconds, own, run.hardware, run.eval.costs)


def _shown(
    run: RunConfig, inputs: Inputs, task: Task, predictions: summary.ArmPredictions, test: arms.Rows
) -> page.Shown:
    """What the page may show: labels of a set, and of the primary task the examples that were asked for."""
    count, found = run.eval.examples, {arm: summary.of_task(task, rows) for arm, rows in predictions.items()}
    examples = (
        pick(found[arms.BASE], found[arms.ADAPTER], test, count) if count and arms.BASE in found else []
    )
    return page.Shown(inputs.has_label_set(), examples)
