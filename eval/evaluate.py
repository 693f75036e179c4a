"""`make eval CONF=x`: the adapter against its base and two floors on the held-out rows, with a verdict."""

import json
import sys
from typing import Any

from eval import arms, gate
from eval.inputs import Inputs, open_inputs
from eval.report import page, summary, terminal
from eval.tasks import Task, make_tasks, predict_all, records
from finetune import artifacts, tracking
from finetune.artifacts import Artifact, Output, Spec
from finetune.config import RunConfig
from finetune.console import say
from finetune.metrics import JobType
from finetune.stage import stage


def run(run: RunConfig) -> Artifact:
    """The report on this adapter; RefusedError, once it is written, where the gate says no."""
    inputs, tasks = open_inputs(run), make_tasks(run.eval)
    spec = Spec("report", 2, run.name, {"eval": run.eval}, inputs.records() | records(tasks, run.paths))
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            with tracking.open_run(run, JobType.eval, spec) as tracker:
                tracker.log(summary.numbers(_evaluate(run, tasks, inputs, output)))
        else:
            say("already evaluated with these settings; nothing to do")
    artifact = output.made()
    report = json.loads(artifact.path("report.json").read_text())
    for line in terminal.lines(report, run.eval):
        say(line)
    say(f"report: {artifact.path('report.html')}")
    gate.require_gain(report, run.eval)
    return artifact


def _evaluate(run: RunConfig, tasks: list[Task], inputs: Inputs, output: Output) -> dict[str, Any]:
    train, test = inputs.rows("train"), inputs.rows("test")
    vocabulary = inputs.vocabulary(train)
    say(f"{summary.foreseen(test, run.eval)}; the floors learn from {len(train)} rows")
    floors = {arms.MAJORITY: arms.majority(train, test), arms.SVM: arms.svm(train, test, run.eval.seed)}
    models, template = arms.models(inputs, run.hardware, run.eval, test)
    predictions = predict_all(tasks, test, {**models, **floors})
    for arm, rows in predictions.items():
        output.write_jsonl(f"predictions_{arm}.jsonl", rows)
    report = summary.summarise(tasks, predictions, vocabulary, run.eval)
    output.write_json("report.json", report)
    facts, shown = page.run_facts(inputs, run), inputs.has_label_set()
    output.write_text("report.html", page.render(run.name, report, predictions, facts, run.eval, shown))
    output.counts = {"rows": len(test), "train_rows": len(train), "answers_cut": arms.cut(models)}
    output.facts = {"template": template, "verdict": report["verdict"]}
    output.overrides = gate.overrides(report, run.eval)
    return report


if __name__ == "__main__":
    sys.exit(stage("eval", run, sys.argv[1:]))
