"""`make train CONF=x`: prepared rows and a pinned base in, an adapter out."""

import json
import sys

from finetune import artifacts, base
from finetune.artifacts import Artifact, Spec, input_record
from finetune.artifacts.folders import CHECKPOINTS
from finetune.config import RunConfig
from finetune.console import say
from finetune.kept_base import training_base
from finetune.licences import require_lawful
from finetune.log_rows import LOG
from finetune.plan.stage import planned
from finetune.preemption import Preemption
from finetune.stage import stage
from finetune.training_data import open_data

VERSION = 3
"""Raised by hand when the same rows and settings make another adapter.

2: another order of the rows. 3: a step rounds otherwise.
"""
KEPT = (CHECKPOINTS, LOG)
"""What an interrupted run goes on from."""


def run(run: RunConfig) -> Artifact:
    """Train the adapter of this configuration, or return it where it is finished."""
    with Preemption() as preemption:
        return _train(run, preemption)


def _train(run: RunConfig, preemption: Preemption) -> Artifact:
    licences = require_lawful(run)
    data = open_data(run)
    pinned = base.open_base(run)
    inputs = {**data.records(), "base": input_record(pinned)}
    spec = Spec("adapter", VERSION, run.name, {"model": run.model, "train": run.train}, inputs)
    with artifacts.writing(run.paths, spec, move_current=run.run is None, kept=KEPT) as output:
        if output.finished is None:
            plan, output.overrides = planned(run, licences, data)
            weights = training_base(run, pinned)
            from finetune.training_run import (  # torch and TRL: seconds a refusal must not cost
                Session,
                train_adapter,
            )

            figures = json.loads(plan.path("plan.json").read_text())
            train_adapter(Session(run, spec, data, weights, output, preemption, figures))
        else:
            say("already trained with these settings; nothing to do")
    return output.made()


if __name__ == "__main__":
    sys.exit(stage("train", run, sys.argv[1:]))
