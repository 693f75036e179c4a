"""`make serve-check CONF=x`: an export behind a real server answers as evaluated; URL= asks somebody else's."""

import json
import sys
from datetime import UTC, datetime

from eval.serving import verdict
from eval.serving.check import check
from eval.serving.inputs import held_out, open_exported
from eval.serving.vllm import Engine, find_engine
from finetune import artifacts, tracking
from finetune.artifacts import Artifact, Spec
from finetune.config import RunConfig
from finetune.console import say
from finetune.errors import RefusedError
from finetune.metrics import JobType
from finetune.stage import stage

VERSION = 1


def run(run: RunConfig) -> Artifact:
    """The proof of what is served; RefusedError, once it is written, where it does not hold."""
    exported = open_exported(run)
    engine = Engine("endpoint", None) if run.serve.url else find_engine(run.serve)
    asked = held_out(run, exported)
    by = {"name": engine.name, "version": engine.version}
    if run.serve.url:  # it may have changed since it was asked last
        by["asked"] = datetime.now(UTC).isoformat()
    sections = {"serve": run.serve, "eval": run.eval, "engine": by}
    spec = Spec("served", VERSION, run.name, sections, exported.records())
    move = run.run is None and run.serve.url is None
    with artifacts.writing(run.paths, spec, move_current=move) as output:
        if output.finished is None:
            with tracking.open_run(run, JobType.serve, spec) as tracker:
                tracker.log(verdict.numbers(check(run, exported, asked, engine, output)))
        else:
            say("already checked with these settings; nothing to do")
    artifact = output.made()
    found = json.loads(artifact.path("served.json").read_text(encoding="utf-8"))
    for line in verdict.told(found):
        say(line)
    if not found["passed"]:
        raise RefusedError(found["problems"])
    return artifact


if __name__ == "__main__":
    sys.exit(stage("serve-check", run, sys.argv[1:]))
