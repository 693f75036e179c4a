"""`make export CONF=x`: merge the adapter, prove the merge equal, write the folder for the serving team."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, Output, Spec, input_record
from finetune.config import RunConfig, recorded
from finetune.config.data import DataConfig
from finetune.config.model import ModelConfig
from finetune.console import say
from finetune.errors import RefusedError
from finetune.handover import copy_companions, gate_report, require_gate
from finetune.licences import require_lawful
from finetune.merge_names import kept_names
from finetune.metrics import JobType
from finetune.stage import stage
from finetune.tracking import Tracker, open_run
from finetune.training_data import require_lawful_mix


def run(run: RunConfig) -> Artifact:
    """Export the adapter of this configuration, or return the export where it is finished."""
    require_lawful(run)
    settings = {"model": run.model, "train": run.train}
    adapter = artifacts.open_current(run.paths, "adapter", run.name, settings, run.run)
    pinned, data = (artifacts.open_input(run.paths, adapter, key) for key in ("base", "data"))
    model = recorded(ModelConfig, adapter.manifest.config["model"])
    run = replace(run, model=model, data=recorded(DataConfig, data.manifest.config["data"]))
    require_lawful(run)  # RUN= or an edited experiment can make what was trained on another than today's
    require_lawful_mix(run, adapter.manifest.facts.get("mix", {}))
    report = gate_report(run, adapter)
    overrides = require_gate(run, adapter, report)
    inputs = {"adapter": adapter, "base": pinned, "data": data, **({"report": report} if report else {})}
    spec = Spec(
        "export",
        3,
        run.name,
        {"export": run.export},
        {key: input_record(item) for key, item in inputs.items()},
    )
    kept = kept_names(pinned)
    with artifacts.writing(run.paths, spec, move_current=run.run is None, kept=kept) as output:
        if output.finished is None:
            output.overrides = overrides + (report.manifest.overrides if report else [])
            with open_run(run, JobType.export, spec) as tracker:
                _export(run, inputs, output, tracker)
        else:
            say("already exported with these settings; nothing to do")
    return output.made()


def _export(run: RunConfig, inputs: dict[str, Artifact], output: Output, tracker: Tracker) -> None:
    from finetune.fidelity import measure, numbers, told
    from finetune.merge_auto import merge_chosen
    from finetune.merge_choice import change_config
    from finetune.model import trained_on
    from finetune.model_card import model_card

    adapter, pinned, data = inputs["adapter"], inputs["base"], inputs["data"]
    base = trained_on(run.paths, adapter, pinned)

    def complete(folder: Output, config: Mapping[str, Any]) -> None:
        copy_companions(pinned.folder, folder)
        change_config(folder, config)

    chosen = merge_chosen(run, adapter, base, data, output, complete)
    complete(output, chosen.merged.config)
    say(f"{len(chosen.merged.changed)} tensors changed; comparing the merged weights with the adapter")
    figures = measure(run, adapter, base, data, chosen, output.folder)
    output.write_json("fidelity.json", figures)
    tracker.log(numbers(figures))
    say(told(figures))
    if not figures["passed"]:
        raise RefusedError(figures["problems"])
    output.write_text("README.md", model_card(run, inputs, figures, output.overrides))
    output.counts = {"tensors_changed": figures["tensors_changed"], "positions": figures["positions"]}
    output.facts = {"batch_rows": run.eval.batch_rows, "hardware": run.hardware.name}


if __name__ == "__main__":
    sys.exit(stage("export", run, sys.argv[1:]))
