"""The model card: where the weights come from and what was measured, from the manifests alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.artifacts import Artifact
from finetune.config import RunConfig

CARD = """---
license: {licence}
base_model: {repo}
base_model_relation: merge
library_name: transformers
pipeline_tag: text-generation
tags: [hallmark, qlora]
---
# {title}

{repo} fine-tuned with QLoRA on `{data}` and merged to bf16.

| | |
|---|---|
| base | {repo}, content `{base}` |
| data | {data}, licence {data_licence}, content `{data_content}` |{mixed}
| adapter | {name}/{adapter_run}, content `{adapter}` |
| trained | {steps} steps over {rows} rows, {trained_tokens} answer tokens in all |

## Gain

{gain}{overrides}

## Served = merged = trained

Merged onto the {merge_base} base (what training saw) in fp32, rounded once. Compared with the adapter at
{positions} answer positions of {prompts} held-out prompts:

| | merged against adapter | noise floor of the adapter itself |
|---|---|---|
| bf16 mean KL (nats) | {mean_kl:.2e} | {floor_kl:.2e} |
| bf16 top-1 agreement | {top1:.4f} | {floor_top1:.4f} |
| fp32 mean KL (nats) | {fp32_kl} | |
| greedy answers equal | {greedy} of {prompts} | |

## Licences and attribution

Base: {licence}; its licence text is in this folder. Data: {data_licence}. {attribution}{mixed_attribution}

## Limits

Evaluated on the held-out test set of `{data}` only, greedy decoding, bf16. Nothing is known about other tasks,
other languages or what the base could do before and cannot now.
"""


def model_card(
    run: RunConfig, inputs: Mapping[str, Artifact], figures: Mapping[str, Any], overrides: Sequence[str]
) -> str:
    """README.md of the export, with Hugging Face front matter; `overrides` are the gates that were forced."""
    adapter, base, data = inputs["adapter"], inputs["base"], inputs["data"]
    counts = adapter.manifest.counts
    return CARD.format(
        licence=_front_matter_licence(run.model.licence),
        repo=run.model.base.repo or run.model.name,
        title=run.model.export_name,
        data=data.manifest.name,
        base=base.manifest.content[:16],
        data_licence=data.manifest.config["data"]["licence"],
        data_content=data.manifest.content[:16],
        name=run.name,
        adapter_run=adapter.manifest.run,
        adapter=adapter.manifest.content[:16],
        rows=counts["rows"],
        steps=counts["steps"],
        trained_tokens=counts["trained_tokens"],
        gain=_gain(inputs.get("report")),
        overrides=_overrides(overrides),
        merge_base="dequantised NF4" if figures["base"] == "dequantised" else "original",
        positions=figures["positions"],
        prompts=figures["prompts"],
        mean_kl=figures["mean_kl"],
        floor_kl=figures["floor"]["kl"],
        top1=figures["top1_agreement"],
        floor_top1=figures["floor"]["top1"],
        fp32_kl="not run" if figures["fp32_kl"] is None else f"{figures['fp32_kl']:.2e}",
        greedy=figures["greedy_equal"],
        **_mixed(adapter.manifest.facts.get("mix", {})),
        attribution=data.manifest.config["data"]["attribution"],
    )


def _mixed(mix: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the card says of data sets mixed into training."""
    rows = (
        f"\n| mixed into training | {name}, licence {of['licence']}, content `{of['content'][:16]}` |"
        for name, of in mix.items()
    )
    thanks = (f" {name}: {of['licence']}. {of['attribution']}" for name, of in mix.items())
    return {"mixed": "".join(rows), "mixed_attribution": "".join(thanks)}


def _front_matter_licence(licence: str) -> str:
    """Hugging Face wants lower-case SPDX ids, and `other` for the rest (hub-docs, modelcard.md)."""
    return "other" if licence.startswith("LicenseRef-") else licence.lower()


def _gain(report: Artifact | None) -> str:
    """The gate and the comparisons of the report on this very adapter; says so where there is none."""
    if report is None:
        return "No evaluation of this adapter has a gate: what it gained is not known."
    found = json.loads(report.path("report.json").read_text())
    level = f"{report.manifest.config['eval']['confidence']:.0%}".replace("%", " %")
    passed = "passed" if found["gate"]["passed"] else "**not passed**"
    lines = [
        f"Verdict: **{found['verdict']}** against {found['reference']}, the best of those it must beat on "
        f"{found['primary']}; gate {passed} (report {report.manifest.run}).",
        "",
        f"| against | task | metric | gain | {level} interval | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for item in found["comparisons"]:
        lines.append(
            f"| {item['a']} | {item['task']} | {item['metric']} | {item['delta']:+.3f} | "
            f"{item['ci_low']:+.3f} to {item['ci_high']:+.3f} | {item['verdict']} |"
        )
    return "\n".join([*lines, *_losses(found["gate"]["checks"])])


def _losses(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What must not have fallen, with the margin: those checks of the gate alone."""
    kept = [check for check in checks if check["kind"] == "non_inferiority"]
    if kept:
        yield "\n| must not fall | metric | change | interval | margin | found |\n|---|---|---|---|---|---|"
    for check in kept:
        yield (
            f"| {check['task']} | {check['metric']} | {check['delta']:+.3f} | {check['ci_low']:+.3f} to "
            f"{check['ci_high']:+.3f} | {check['margin']:g} | {check['verdict']} |"
        )


def _overrides(overrides: Sequence[str]) -> str:
    """A paragraph that names the gates that were forced; nothing where none was."""
    if not overrides:
        return ""
    return "\n\n**Exported against a gate.** " + "; ".join(overrides) + "."
