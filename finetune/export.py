"""`make export CONF=x`: merge the adapter, prove the merge equal, write the folder for the serving team."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune import artifacts, audit
from finetune.adapter_export import write_adapter_folder
from finetune.artifacts import Artifact, Output, Spec, input_record
from finetune.artifacts.hashing import HashCache
from finetune.config import RunConfig, recorded
from finetune.config.data import DataConfig
from finetune.config.model import ModelConfig
from finetune.config.schema import ExportFormat
from finetune.console import say
from finetune.errors import RefusedError
from finetune.handover import as_evaluated, gate_report, require_gate, write_handover
from finetune.licences import require_lawful
from finetune.merge_names import kept_names
from finetune.metrics import JobType
from finetune.server_files import write_merged_settings
from finetune.signing import Key, open_key
from finetune.stage import stage
from finetune.tracking import Tracker, open_run
from finetune.training_data import require_lawful_mix
from finetune.verify import verify


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
    key = open_key(run)
    spec = Spec(
        "export",
        3,
        run.name,
        {"export": run.export},
        {key: input_record(item) for key, item in inputs.items()},
    )
    kept = kept_names(pinned)
    with artifacts.writing(run.paths, spec, move_current=run.run is None, kept=kept) as output:
        is_new = output.finished is None
        if is_new:
            output.overrides = overrides + (report.manifest.overrides if report else [])
            with open_run(run, JobType.export, spec) as tracker:
                _export(as_evaluated(run, report), inputs, output, tracker)
            output.facts["audit"] = audit.record_inputs(run, inputs.values()).record()
            output.seal = partial(key.sign, output.folder)
        else:
            say("already exported with these settings; nothing to do")
    if not is_new:  # only now is gone what a killed run left beside the finished files
        _require_signed(run, output.folder, key)
    say(f"to verify it anywhere: make verify EXPORT={output.folder} KEY={key.public}")
    return output.made()


def _require_signed(run: RunConfig, folder: Path, key: Key) -> None:
    cache = HashCache(Path(run.paths.artifacts_root), run.paths.rehash)
    verify(folder, key.public, cache.digest)
    cache.save()


def _export(run: RunConfig, inputs: dict[str, Artifact], output: Output, tracker: Tracker) -> None:
    from finetune.fidelity import measure, numbers, told
    from finetune.kept_base import quantise_merged
    from finetune.merge_auto import merge_chosen
    from finetune.merge_choice import change_config
    from finetune.model import trained_on

    output.facts = {"batch_rows": run.eval.batch_rows, "hardware": run.hardware.name}
    if run.export.format is ExportFormat.adapter:
        write_adapter_folder(run, inputs["adapter"], inputs["base"], output)
        write_handover(run, inputs, None, output)
        return
    adapter, pinned, data = inputs["adapter"], inputs["base"], inputs["data"]
    base = trained_on(run.paths, adapter, pinned)

    def complete(folder: Output, config: Mapping[str, Any]) -> None:
        write_merged_settings(run, pinned.folder, folder)
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
    output.counts = {"tensors_changed": figures["tensors_changed"], "positions": figures["positions"]}
    if run.export.format is ExportFormat.nf4:
        quantise_merged(run, output)
    write_handover(run, inputs, figures, output)


if __name__ == "__main__":
    sys.exit(stage("export", run, sys.argv[1:]))
