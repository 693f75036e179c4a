"""`make eval CONF=x`: the adapter against base, retrieval and floors on the held-out rows, with a gate."""

import json
import sys

from eval import arms, delivered, forgetting, gate
from eval.evaluation import evaluate
from eval.inputs import open_inputs
from eval.report import summary, tables, terminal
from eval.tasks import make_tasks, records
from finetune import artifacts, tracking
from finetune.artifacts import Artifact, Spec
from finetune.config import RunConfig
from finetune.console import say
from finetune.metrics import JobType
from finetune.stage import stage

VERSION = 3
"""Raised by hand when the same settings and inputs make another report. 3: few-shot arms and a gate of its own."""


def run(run: RunConfig) -> Artifact:
    """The report on this adapter; RefusedError, once it is written, where the gate says no."""
    inputs, tasks = open_inputs(run), make_tasks(run.eval)
    found = inputs.records() | records(tasks, run.paths) | forgetting.records(run.eval, run.paths)
    spec = Spec("report", VERSION, run.name, {"eval": run.eval, **delivered.sections(run)}, found)
    lacking = gate.missing(arms.names(run.eval), run.eval)
    with artifacts.writing(run.paths, spec, move_current=run.run is None and not lacking) as output:
        if output.finished is None:
            with tracking.open_run(run, JobType.eval, spec) as tracker:
                found = evaluate(run, tasks, inputs, output)
                tracker.log(summary.numbers(found))
                for name, (columns, rows) in tables.tables(found).items():
                    tracker.table(name, columns, rows)
        else:
            say("already evaluated with these settings; nothing to do")
    artifact = output.made()
    report = json.loads(artifact.path("report.json").read_text())
    for line in terminal.lines(report, run.eval):
        say(line)
    say(f"report: {artifact.path('report.html')}")
    if lacking:
        say(
            f"no gate: eval.arms lacks {', '.join(lacking)}, which eval.reference={run.eval.reference.name} is about; "
            "this report lets nothing be exported and the last one stays current"
        )
    gate.require_passed(report, run.eval)
    return artifact


if __name__ == "__main__":
    sys.exit(stage("eval", run, sys.argv[1:]))
