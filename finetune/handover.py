"""What leaves the house: only what passed its gate, with its rights, its card and its evidence."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.config.schema import ExportFormat
from finetune.console import say
from finetune.errors import RefusedError
from finetune.evidence import write_evidence
from finetune.licence_texts import legal_of, write_licences
from finetune.licences import require_lawful, unique
from finetune.model_card import Made, model_card
from finetune.sbom import SBOM, sbom
from finetune.training_data import require_lawful_mix

CHANGE = {
    ExportFormat.merged: "fine-tuned with QLoRA and merged: every *.safetensors file, config.json, "
    "generation_config.json and README.md were changed",
    ExportFormat.adapter: "fine-tuned with QLoRA: adapter_model.safetensors is what was learned, and the base is "
    "unchanged",
    ExportFormat.nf4: "fine-tuned with QLoRA, merged and quantised: every *.safetensors file, config.json, "
    "generation_config.json and README.md were changed",
}


def write_handover(
    run: RunConfig, inputs: Mapping[str, Artifact], figures: Mapping[str, Any] | None, output: Output
) -> None:
    """Write what travels with the weights: licence texts, card, bill of materials, index of evidence.

    `figures`: those of fidelity.json; None for an adapter alone, which nothing was merged of. Raises ConfigError or
    RefusedError where a licence does not allow it.
    """
    data, mix = inputs["data"].manifest, inputs["adapter"].manifest.facts.get("mix", {})
    licences = unique([*require_lawful(run), *require_lawful_mix(run, mix)])
    repo = run.model.base.repo or run.model.name
    legal = legal_of(licences, repo, data, mix)
    change = f"{run.model.export_name} was made from {repo}, {CHANGE[run.export.format]}."
    write_licences(legal, inputs["base"].folder, change, output)
    output.write_text("README.md", model_card(run, Made(inputs, figures, output.overrides, legal)))
    bill = sbom(run.model.export_name, run.model.licence, inputs)
    output.write_text(SBOM, json.dumps(bill, indent=2) + "\n")
    write_evidence(inputs, output)


def as_evaluated(run: RunConfig, report: Artifact | None) -> RunConfig:
    """The configuration with the limit of answers of the report that lets the adapter go."""
    if report is None:
        return run
    limit = report.manifest.config["eval"].get("max_new_tokens", run.eval.max_new_tokens)
    return replace(run, eval=replace(run.eval, max_new_tokens=limit))


def gate_report(run: RunConfig, adapter: Artifact) -> Artifact | None:
    """The newest report on this very adapter whose gate was computed, whatever `current` names; None: there is none.

    Raises DataError where a report on it is damaged: an older one must not speak in its place.
    """
    found = [
        artifacts.open_run(run.paths, "report", run.name, manifest.run)
        for manifest in artifacts.finished(run.paths, "report", run.name)
        if manifest.inputs["adapter"]["content"] == adapter.manifest.content
    ]
    judged = [report for report in found if gate_of(report)]
    # of reports of one second the refused one counts
    return max(
        judged, key=lambda report: (report.manifest.created, not gate_of(report)["passed"]), default=None
    )


def gate_of(report: Artifact) -> dict[str, Any]:
    """The gate section of a report; empty where it was not computed, so that the report lets nothing be exported."""
    gate: dict[str, Any] | None = json.loads(report.path("report.json").read_text()).get("gate")
    return gate or {}


def require_gate(run: RunConfig, adapter: Artifact, report: Artifact | None) -> list[str]:
    """The gates that are forced for this export, none where the report lets the adapter pass.

    Raises RefusedError where no evaluation does and `export.force` is not set.
    """
    reason = _reason(run, adapter, report)
    if reason is None:
        return []
    if run.export.force:
        say(f"note: {reason}; exporting because of export.force=true, which manifest and card record")
        return [f"export.force: {reason}"]
    command = f"make eval CONF={run.name}" + (f" RUN={run.run}" if run.run else "")
    raise RefusedError(
        f"{reason}; run `{command}` once it is better, or set export.force=true to export anyway, on record"
    )


def _reason(run: RunConfig, adapter: Artifact, report: Artifact | None) -> str | None:
    """Why an adapter may not be exported; None where it may."""
    if report is None:
        return f"no evaluation of adapter {run.name}/{adapter.manifest.run} with a gate is finished"
    gate = gate_of(report)
    if gate["passed"]:
        return None
    failed = [check for check in gate["checks"] if not check["passed"]]
    first = failed[0]
    return (
        f"the gate of report {run.name}/{report.manifest.run} did not pass ({len(failed)} of {len(gate['checks'])} "
        f"checks; {first['b']} minus {first['a']} on {first['task']} {first['metric']} "
        f"is {first['delta']:+.4f} [{first['ci_low']:+.4f}, {first['ci_high']:+.4f}]: {first['verdict']})"
    )
