"""One evaluation: arms answer, tasks score, the report is written."""

from typing import Any

from eval import arms, forgetting, gate, lost
from eval.answers import answer
from eval.inputs import Inputs, require_usable
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
    require_usable(tasks, test)
    floors = arms.floors(run.eval, train, test)
    loaded = inputs.load(run.hardware)
    models = arms.models(loaded, run.eval, train, test)
    predictions = predict_all(tasks, test, {**models.answers, **floors})
    for arm, rows in predictions.items():
        output.write_jsonl(f"predictions_{arm}.jsonl", rows)
    report = summary.summarise(tasks, predictions, vocabulary, run.eval)
    asked = (test, {**models.answers, **floors})
    report |= lost.sections(tasks, predictions, report["arms"], asked, run.eval, inputs.has_label_set())
    report["forgetting"] = forgetting.measure(loaded, answer, run.eval, run.paths)
    report["gate"] = gate.judge(report, run.eval)
    output.write_json("report.json", report)
    facts, shown = page.run_facts(inputs, run), inputs.has_label_set()
    output.write_text("report.html", page.render(run.name, report, predictions, facts, run.eval, shown))
    output.counts = {"rows": len(test), "train_rows": len(train), **models.counts}
    output.facts = {"template": loaded.renderer.template_hash(), "verdict": report["verdict"]}
    output.overrides = gate.overrides(report)
    return report
