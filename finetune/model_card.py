"""The model card: where the weights come from and what was measured, from the manifests alone."""

import json
from collections.abc import Mapping
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

{gain}

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


def model_card(run: RunConfig, inputs: Mapping[str, Artifact], figures: Mapping[str, Any]) -> str:
    """README.md of the export, with Hugging Face front matter."""
    adapter, base, data = inputs["adapter"], inputs["base"], inputs["data"]
    counts = adapter.manifest.counts
    mix = adapter.manifest.facts.get("mix", {})
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
        merge_base="dequantised NF4" if figures["base"] == "dequantised" else "original",
        positions=figures["positions"],
        prompts=figures["prompts"],
        mean_kl=figures["mean_kl"],
        floor_kl=figures["floor"]["kl"],
        top1=figures["top1_agreement"],
        floor_top1=figures["floor"]["top1"],
        fp32_kl="not run" if figures["fp32_kl"] is None else f"{figures['fp32_kl']:.2e}",
        greedy=figures["greedy_equal"],
        mixed="".join(
            f"\n| mixed into training | {name}, licence {of['licence']}, content `{of['content'][:16]}` |"
            for name, of in mix.items()
        ),
        mixed_attribution="".join(
            f" {name}: {of['licence']}. {of['attribution']}" for name, of in mix.items()
        ),
        attribution=data.manifest.config["data"]["attribution"],
    )


def _front_matter_licence(licence: str) -> str:
    """Hugging Face wants lower-case SPDX ids, and `other` for the rest (hub-docs, modelcard.md)."""
    return "other" if licence.startswith("LicenseRef-") else licence.lower()


def _gain(report: Artifact | None) -> str:
    """The comparisons of the report on this very adapter; says so where there is none."""
    if report is None:
        return "This adapter was not evaluated."
    found = json.loads(report.path("report.json").read_text())
    level = f"{report.manifest.config['eval']['confidence']:.0%}".replace("%", " %")
    lines = [f"Verdict: **{found['verdict']}** (report {report.manifest.run}).", ""]
    lines += [f"| against | metric | gain | {level} interval | verdict |", "|---|---|---|---|---|"]
    for item in found["comparisons"]:
        lines.append(
            f"| {item['a']} | {item['metric']} | {item['delta']:+.3f} | "
            f"{item['ci_low']:+.3f} to {item['ci_high']:+.3f} | {item['verdict']} |"
        )
    return "\n".join(lines)
