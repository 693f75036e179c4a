"""`make eval CONF=x`: the adapter against its base and two floors on the held-out rows, with a verdict."""

import json
import sys

from eval import gate
from eval.evaluation import evaluate
from eval.inputs import open_inputs
from eval.report import summary, terminal
from eval.tasks import make_tasks, records
from finetune import artifacts, tracking
from finetune.artifacts import Artifact, Spec
from finetune.config import RunConfig
from finetune.console import say
from finetune.metrics import JobType
from finetune.stage import stage


def run(run: RunConfig) -> Artifact:
    """The report on this adapter; RefusedError, once it is written, where the gate says no."""
    inputs, tasks = open_inputs(run), make_tasks(run.eval)
    spec = Spec("report", 3, run.name, {"eval": run.eval}, inputs.records() | records(tasks, run.paths))
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            with tracking.open_run(run, JobType.eval, spec) as tracker:
                tracker.log(summary.numbers(evaluate(run, tasks, inputs, output)))
        else:
            say("already evaluated with these settings; nothing to do")
    artifact = output.made()
    report = json.loads(artifact.path("report.json").read_text())
    for line in terminal.lines(report, run.eval):
        say(line)
    say(f"report: {artifact.path('report.html')}")
    gate.require_gain(report, run.eval)
    return artifact


if __name__ == "__main__":
    sys.exit(stage("eval", run, sys.argv[1:]))
