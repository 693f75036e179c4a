"""`make plan CONF=x`: memory, time, cost and licence of the run, before a GPU is rented."""

import sys

from finetune import artifacts
from finetune.artifacts import Artifact
from finetune.config import RunConfig
from finetune.console import say
from finetune.licences import require_lawful
from finetune.plan.stage import make_plan, require_fit, told_whole
from finetune.stage import stage
from finetune.training_data import open_data


def run(run: RunConfig) -> Artifact:
    """The plan of this configuration; refused (exit 3) where the run does not fit."""
    licences = require_lawful(run)
    data = None
    if run.run is not None or artifacts.has_current(run.paths, "data", run.data.name):
        data = open_data(run)
    made = make_plan(run, licences, data)
    say(told_whole(made))
    require_fit(run, made)
    return made


if __name__ == "__main__":
    sys.exit(stage("plan", run, sys.argv[1:]))
