"""`make train CONF=x`: prepared rows and a pinned base in, an adapter out."""

import sys

from finetune import artifacts, base
from finetune.artifacts import Artifact, Spec, input_record
from finetune.artifacts.folders import CHECKPOINTS
from finetune.config import RunConfig
from finetune.console import say
from finetune.licences import require_lawful
from finetune.plan.stage import make_plan, require_fit
from finetune.preemption import Preemption
from finetune.stage import stage

KEPT = (CHECKPOINTS, "log.jsonl")
"""What an interrupted run goes on from."""


def run(run: RunConfig) -> Artifact:
    """Train the adapter of this configuration, or return it where it is finished."""
    licences = require_lawful(run)
    data = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, run.run)
    pinned = base.open_base(run)
    inputs = {"data": input_record(data), "base": input_record(pinned)}
    spec = Spec("adapter", 1, run.name, {"model": run.model, "train": run.train}, inputs)
    writing = artifacts.writing(run.paths, spec, move_current=run.run is None, kept=KEPT)
    with Preemption() as preemption, writing as output:
        if output.finished is None:
            plan = make_plan(run, licences, data)
            output.overrides = require_fit(run, plan)
            from finetune.training_run import (  # torch and TRL: seconds a refusal must not cost
                Session,
                train_adapter,
            )

            train_adapter(Session(run, spec, data, pinned, plan, output, preemption))
        else:
            say("already trained with these settings; nothing to do")
    return output.made()


if __name__ == "__main__":
    sys.exit(stage("train", run, sys.argv[1:]))
