"""`make preflight CONF=x`: a few real steps, a checkpoint and an evaluation batch on the device, beside the plan."""

import json
import sys
from typing import Any

from finetune import artifacts, base
from finetune.artifacts import Artifact, Output, Spec, input_record
from finetune.config import RunConfig
from finetune.console import say
from finetune.errors import RefusedError
from finetune.kept_base import training_base
from finetune.licences import require_lawful
from finetune.metrics import JobType
from finetune.plan import calibration, measured
from finetune.plan.stage import planned
from finetune.stage import stage
from finetune.tracking import Tracker, open_run
from finetune.training_data import open_data

TRACKED = {
    "preflight/peak_gib": "measured_allocated_gib",
    "preflight/memory_error": "memory_error",
    "preflight/tokens_per_s": "measured_tokens_per_s",
    "preflight/speed_error": "speed_error",
}
"""What the tracker gets of preflight.json."""


def run(run: RunConfig) -> Artifact:
    """What this configuration takes on this device; where the plan was further off than its margins, RefusedError.

    What was refused is measured again the next time; its numbers stay in preflight.json and the calibration file.
    """
    licences = require_lawful(run)
    data = open_data(run)
    pinned = base.open_base(run)
    plan, forced = planned(run, licences, data)
    from finetune.trial_run import device_name, trial_run  # torch: seconds that a refusal must not cost

    sections = {"model": run.model, "train": run.train, "hardware": run.hardware, "plan": run.plan}
    sections |= {"eval": {"batch_rows": run.eval.batch_rows}, "device": device_name(run.hardware)}
    inputs = {**data.records(), "base": input_record(pinned), "plan": input_record(plan)}
    spec = Spec("preflight", 1, run.name, sections, inputs)
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            output.overrides = forced
            read = training_base(run, pinned).read
            with output.scratch() as scratch, open_run(run, JobType.preflight, spec) as tracker:
                found = trial_run(run, data, read, scratch)
                _compare(run, json.loads(plan.path("plan.json").read_text()), found, output, tracker)
        else:
            say("already measured with these settings on this device; nothing to do")
    return output.made()


def _compare(
    run: RunConfig, plan: dict[str, Any], found: measured.Measured, output: Output, tracker: Tracker
) -> None:
    compared = measured.comparisons(run, plan, found)
    report = measured.report(run, compared, found)
    output.write_json("preflight.json", report)
    tracker.log({name: report[key] for name, key in TRACKED.items()})
    kept = calibration.append(run.paths, calibration.row_of(run, output.folder.name, plan, found))
    say(f"{measured.table(compared, found)}\n  kept for later plans: {kept}")
    if problems := measured.problems(plan, compared, found):
        raise RefusedError(problems)


if __name__ == "__main__":
    sys.exit(stage("preflight", run, sys.argv[1:]))
