"""The model card: where the weights come from, what was measured and what was not, from the manifests alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.artifacts import Artifact
from finetune.card_sections import gain, lost, not_evaluated
from finetune.config import RunConfig
from finetune.config.schema import ExportFormat, UseConfig
from finetune.licence_texts import Legal
from finetune.licences import strictest

CARD = """---
license: {front_licence}
base_model: {repo}
base_model_relation: {relation}
library_name: {library}
pipeline_tag: text-generation
tags: [hallmark, qlora]
---
# {title}
{displays}
{repo} fine-tuned with QLoRA on `{data}`, {what}.

| | |
|---|---|
| base | {repo}, revision {revision}, content `{base}` |
| data | {data}, licence {data_licence}, content `{data_content}` |{mixed}
| adapter | {name}/{adapter_run}, content `{adapter}` |
| trained | {steps} steps over {rows} rows, {trained_tokens} answer tokens in all |
| intended use | {intended_use} |
| declared use | {declared_use} |
| approved by | {approver} |

## Gain

{gain}{overrides}

## What was lost

{lost}

## Served = merged = trained

{fidelity}

## Not evaluated

{not_evaluated}

## Licences and attribution

Base: {licence}; its licence text is in this folder. Data: {data_licence}. {attribution}{mixed_attribution}
All licences together: {strictest}. `NOTICE` has what they prescribe.

## Limits

Evaluated on the held-out test set of `{data}` only, greedy decoding, bf16, at most {max_new_tokens} new tokens. Nothing
is known about other tasks, other languages or other settings. `serve.yaml` has the settings as evaluated; `evidence.md`
says which file proves what.
"""
MERGED = """Merged onto the {merge_base} base{why} in fp32, rounded once.{because} Compared with the adapter at
{positions} answer positions of {prompts} held-out prompts:

| | merged against adapter | noise floor of the adapter itself |
|---|---|---|
| bf16 mean KL (nats) | {mean_kl:.2e} | {floor_kl:.2e} |
| bf16 top-1 agreement | {top1:.4f} | {floor_top1:.4f} |
| fp32 mean KL (nats) | {fp32_kl} | |
| greedy answers equal | {greedy} of {prompts} | |"""
ALONE = """The adapter as it was trained and evaluated, unmerged. **Not evaluated**: the adapter on the base in bf16, as
`serve.yaml` serves it. Gain and losses above were measured on the base {measured_on}."""
REQUANTISED = """

**Not evaluated**: the weights in this folder are these merged weights quantised once more to NF4, which rounds them
anew. The figures above are those of the merged weights in bf16 before that."""
KINDS = {
    ExportFormat.merged: ("merge", "transformers", "merged to bf16"),
    ExportFormat.adapter: ("adapter", "peft", "the adapter alone"),
    ExportFormat.nf4: ("quantized", "transformers", "merged and quantised to NF4"),
}


@dataclass(frozen=True)
class Made:
    """What an export has become: its inputs, the figures of fidelity.json if it was merged, forced gates, rights."""

    inputs: Mapping[str, Artifact]
    figures: Mapping[str, Any] | None
    overrides: Sequence[str]
    legal: Legal


def model_card(run: RunConfig, made: Made) -> str:
    """README.md of the export, with Hugging Face front matter."""
    adapter, base, data = (made.inputs[key] for key in ("adapter", "base", "data"))
    report, counts = made.inputs.get("report"), adapter.manifest.counts
    relation, library, what = KINDS[run.export.format]
    measured_on = "in 4 bits" if adapter.manifest.facts.get("quantised") else "as it came"
    return CARD.format(
        front_licence=_front_matter_licence(run.model.licence),
        relation=relation,
        library=library,
        what=what,
        displays="".join(f"\n**{text}**\n" for text in made.legal.displays),
        licence=run.model.licence,
        repo=made.legal.base,
        revision=base.manifest.config.get("base", {}).get("revision") or "not stated",
        title=run.model.export_name,
        data=data.manifest.name,
        base=base.manifest.content[:16],
        data_licence=_licence_of(made.legal.data[data.manifest.name]),
        data_content=data.manifest.content[:16],
        name=run.name,
        adapter_run=adapter.manifest.run,
        adapter=adapter.manifest.content[:16],
        rows=counts["rows"],
        steps=counts["steps"],
        trained_tokens=counts["trained_tokens"],
        intended_use=_cell(run.export.intended_use) or "**not stated** (`export.intended_use`)",
        declared_use=_declared(run.export.use),
        approver=_cell(run.export.approver) or "**nobody named** (`export.approver`)",
        gain=gain(report),
        lost=lost(report),
        overrides=_overrides(made.overrides),
        fidelity=_fidelity(run, made.figures, measured_on),
        not_evaluated="\n".join(f"- {told}" for told in _open_points(run, report, measured_on)),
        strictest=strictest(made.legal.licences),
        max_new_tokens=run.eval.max_new_tokens,
        **_mixed(adapter.manifest.facts.get("mix", {})),
        attribution=made.legal.data[data.manifest.name]["attribution"],
    )


def _fidelity(run: RunConfig, figures: Mapping[str, Any] | None, measured_on: str) -> str:
    if figures is None:
        return ALONE.format(measured_on=measured_on)
    fp32 = figures["fp32_kl"]
    dequantised = figures["base"] == "dequantised"
    text = MERGED.format(
        merge_base="dequantised NF4" if dequantised else "original",
        why=" (what training saw)" if dequantised else "",
        because=_because(figures.get("candidates") or {}),
        positions=figures["positions"],
        prompts=figures["prompts"],
        mean_kl=figures["mean_kl"],
        floor_kl=figures["floor"]["kl"],
        top1=figures["top1_agreement"],
        floor_top1=figures["floor"]["top1"],
        fp32_kl="**not evaluated**" if fp32 is None else f"{fp32:.2e}",
        greedy=figures["greedy_equal"],
    )
    return text + (REQUANTISED if run.export.format is ExportFormat.nf4 else "")


def _because(candidates: Mapping[str, Any]) -> str:
    """Why export.base=auto took this base; nothing where it was not asked to choose."""
    if not candidates:
        return ""
    return f" `export.base=auto` chose it of two by {candidates['rows']} validation rows: {candidates['because']}."


def _open_points(run: RunConfig, report: Artifact | None, measured_on: str) -> list[str]:
    on_base = f"gain and losses are the adapter's on the base {measured_on}"
    of_format = {
        ExportFormat.merged: f"the tasks on the merged weights: {on_base}",
        ExportFormat.adapter: "the tasks on the base in bf16, on which a server runs the adapter",
        ExportFormat.nf4: "the weights in this folder, which were quantised once more",
    }
    server = "the server: `make serve-check` measures it and writes its own record"
    fairness = "whether it treats protected groups of people alike, unless a slice of the report is of one"
    return [*not_evaluated(report), of_format[run.export.format], server, fairness]


def _declared(use: UseConfig) -> str:
    commercial = {True: "commercial", False: "not commercial", None: "not stated whether commercial"}
    users = "users not stated" if use.monthly_users is None else f"{use.monthly_users:,} monthly users"
    return f"{commercial[use.commercial]}, {users}"


def _cell(text: str) -> str:
    """A person's words as one table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _licence_of(data: Mapping[str, str]) -> str:
    teacher = data.get("teacher_licence")
    return data["licence"] + (f", written by a model under {teacher}" if teacher else "")


def _mixed(mix: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the card says of data sets mixed into training."""
    rows = (
        f"\n| mixed into training | {name}, licence {_licence_of(of)}, content `{of['content'][:16]}` |"
        for name, of in mix.items()
    )
    thanks = (f" {name}: {_licence_of(of)}. {of['attribution']}" for name, of in mix.items())
    return {"mixed": "".join(rows), "mixed_attribution": "".join(thanks)}


def _front_matter_licence(licence: str) -> str:
    """Hugging Face wants lower-case SPDX ids, and `other` for the rest (hub-docs, modelcard.md)."""
    if not licence.startswith("LicenseRef-"):
        return licence.lower()
    return f"other\nlicense_name: {licence.removeprefix('LicenseRef-').lower()}\nlicense_link: LICENSE"


def _overrides(overrides: Sequence[str]) -> str:
    """A paragraph that names the gates that were forced; nothing where none was."""
    if not overrides:
        return ""
    return "\n\n**Exported against a gate.** " + "; ".join(overrides) + "."
