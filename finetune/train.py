"""`make train CONF=x`: prepared rows and a pinned base in, an adapter out."""

import sys

from finetune import artifacts, base, tracking
from finetune.artifacts import Artifact, Spec, input_record
from finetune.config import RunConfig
from finetune.console import say
from finetune.licences import require_lawful
from finetune.plan.stage import planned
from finetune.stage import stage


def run(run: RunConfig) -> Artifact:
    """Train the adapter of this configuration, or return it where it is finished."""
    licences = require_lawful(run)
    data = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, run.run)
    pinned = base.open_base(run)
    inputs = {"data": input_record(data), "base": input_record(pinned)}
    spec = Spec("adapter", 1, run.name, {"model": run.model, "train": run.train}, inputs)
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            _, output.overrides = planned(run, licences, data)
            from finetune.trainer import train_adapter  # torch and TRL: seconds that a refusal must not cost

            with tracking.open_run(run, "train", spec.run()) as tracker:
                train_adapter(run, data, pinned, output, tracker)
        else:
            say("already trained with these settings; nothing to do")
    return output.made()


if __name__ == "__main__":
    sys.exit(stage("train", run, sys.argv[1:]))
