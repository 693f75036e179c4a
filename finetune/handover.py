"""What merged weights need to leave the house: a gate that passed, tokenizer verbatim, licence texts, the report."""

import json
import shutil
from pathlib import Path
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, Output
from finetune.base import TOKENIZER_FILES, legal_texts
from finetune.config import RunConfig
from finetune.console import say
from finetune.errors import RefusedError

LOCAL_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path")


def copy_companions(base: Path, output: Output) -> None:
    """Copy what a server needs from the base; transformers would write a tokenizer that servers cannot read."""
    for name in (*TOKENIZER_FILES, "generation_config.json", "merges.txt", "vocab.json", "tokenizer.model"):
        if (base / name).is_file():
            shutil.copyfile(base / name, output.path(name))
    for path in legal_texts(base):
        shutil.copyfile(path, output.path(path.name))
    config = json.loads((base / "config.json").read_text())
    for key in LOCAL_KEYS:
        config.pop(key, None)
    for part in (config, config.get("text_config", {})):
        part["dtype"] = "bfloat16"
    output.write_text("config.json", json.dumps(config, indent=2) + "\n")


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
