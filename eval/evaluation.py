"""One evaluation: arms answer, tasks score, the report is written."""

from typing import Any

from eval import arms, gate
from eval.answer_cache import AnswerCache
from eval.answers import make_answering
from eval.inputs import Inputs
from eval.report import page, summary
from eval.tasks import Task, predict_all
from finetune.artifacts import Output
from finetune.config import RunConfig
from finetune.console import say


def evaluate(run: RunConfig, tasks: list[Task], inputs: Inputs, output: Output) -> dict[str, Any]:
    """Write predictions, report.json and report.html; the report."""
    train, test = inputs.rows("train"), inputs.rows("test")
    vocabulary = inputs.vocabulary(train)
    say(f"{summary.foreseen(test, run.eval)}; the floors learn from {len(train)} rows")
    floors = {arms.MAJORITY: arms.majority(train, test), arms.SVM: arms.svm(train, test, run.eval.seed)}
    loaded = inputs.load(run.hardware)
    cache = AnswerCache.of(run.paths, run.name)
    answering = make_answering(run.eval, cache, loaded.renderer, test, vocabulary)
    models = arms.models(loaded, answering, test)
    predictions = predict_all(tasks, test, {**models, **floors})
    for arm, rows in predictions.items():
        output.write_jsonl(f"predictions_{arm}.jsonl", rows)
    report = summary.summarise(tasks, predictions, vocabulary, run.eval)
    output.write_json("report.json", report)
    facts, shown = page.run_facts(inputs, run), inputs.has_label_set()
    output.write_text("report.html", page.render(run.name, report, predictions, facts, run.eval, shown))
    output.counts = {"rows": len(test), "train_rows": len(train), "answers_cut": arms.cut(models)}
    output.facts = {"template": loaded.renderer.template_hash(), "verdict": report["verdict"]}
    output.overrides = gate.overrides(report, run.eval)
    return report
