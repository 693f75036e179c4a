"""Are the merged weights the adapter that was evaluated? Token ids, logits and answers, beside the noise floor."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.agreement import agreement
from finetune.artifacts import Artifact
from finetune.chat import Renderer
from finetune.config import RunConfig
from finetune.config.schema import ExportConfig
from finetune.fidelity_fp32 import compare_fp32
from finetune.free_positions import free_positions
from finetune.merge_choice import Chosen
from finetune.model import ADAPTER, TrainedOn, attach_trained, load_base
from finetune.probe import Probe, encode, logits_of, probe, probe_fresh
from finetune.rows import read_rows

FLOOR_SHAPE = "adapter at evaluation's batch against adapter at batch 1 unpadded, bf16, same positions"
FEWEST = 100
"""Open positions below which a mean over them says little (12 of a tiny test set: 1 to 4 times the floor)."""
ROUND_TO_NEAREST = 0.5 + 1e-6
"""Units of the last place that one rounding may cost."""


def measure(
    run: RunConfig, adapter: Artifact, base: TrainedOn, data: Artifact, chosen: Chosen, merged: Path
) -> dict[str, Any]:
    """The fields of fidelity.json, measured on the test rows of `data`."""
    run = at_batch(run)
    rows = read_rows(data.path("test.jsonl"))
    trained, alone, renderer = probe_adapter(run, adapter, base.read, rows)
    torch.cuda.empty_cache()  # the fresh process needs the room
    fresh = probe_fresh(merged, data.path("test.jsonl"), run)
    others = read_rows(data.path("val.jsonl"))
    free = free_positions(encode(rows, renderer), encode(others, renderer))
    figures = {
        "base": chosen.base.name,
        "candidates": chosen.candidates,
        "tensors_changed": len(chosen.merged.changed),
        "changed_sha256": chosen.merged.digest(),
        "max_rounding_ulp": chosen.merged.max_rounding_ulp,
        "prompt_ids_equal": trained.prompts == fresh.prompts,
        **_fp32(run, adapter, chosen, rows, merged),
        **_behaviour(trained, alone, fresh, free, run.export),
        "prompts": len(rows),
    }
    problems = verdict(figures, run.export)
    return {**figures, "passed": not problems, "problems": problems}


def at_batch(run: RunConfig) -> RunConfig:
    """The run with evaluation's batch, two rows at least.

    At batch 1 the noise floor would be the adapter against its very self: 0, which nothing meets.
    """
    return replace(run, eval=replace(run.eval, batch_rows=max(2, run.eval.batch_rows)))


def _fp32(
    run: RunConfig, adapter: Artifact, chosen: Chosen, rows: Sequence[dict[str, Any]], merged: Path
) -> dict[str, Any]:
    if not run.export.fp32_check:
        return {"fp32_kl": None, "fp32_top1": None}
    found = compare_fp32(chosen.source, adapter.path(ADAPTER), merged, rows, run)
    return {"fp32_kl": found.kl, "fp32_top1": found.top1}


def _behaviour(
    trained: Probe, alone: Tensor, fresh: Probe, free: Tensor, export: ExportConfig
) -> dict[str, Any]:
    """bf16 logits at the positions that the format leaves open, beside the floor; answers of all rows."""
    found, positions = int(free.sum()), len(free)
    enough = found >= min(FEWEST, positions)
    where = free if enough else torch.ones_like(free)
    floor = agreement(trained.logits[where], alone[where])
    same = agreement(trained.logits[where], fresh.logits[where])
    everywhere = agreement(trained.logits, fresh.logits)
    why = None
    if found < export.free_positions:
        why = (
            f"all {len(trained.prompts)} test rows have {found} answer positions that the format leaves open"
        )
        why += "" if enough else f", and below {FEWEST} every answer position is compared"
    return {
        "floor": {"kl": floor.kl, "top1": floor.top1, "margin": floor.margin},
        "floor_shape": FLOOR_SHAPE,
        "top1_agreement": same.top1,
        "mean_kl": same.kl,
        "positions": int(where.sum()),
        "positions_short": why,
        "answer_positions": positions,
        "answer_kl": everywhere.kl,
        "answer_top1": everywhere.top1,
        "greedy_equal": sum(a == b for a, b in zip(trained.answers, fresh.answers, strict=True)),
    }


def told(figures: dict[str, Any]) -> str:
    """The fidelity figures in a few lines."""
    floor = figures["floor"]
    ratio = figures["mean_kl"] / floor["kl"] if floor["kl"] else float("inf")
    fp32 = (
        "not run"
        if figures["fp32_kl"] is None
        else f"KL {figures['fp32_kl']:.1e}, top-1 {figures['fp32_top1']:.4f}"
    )
    return (
        f"{figures['positions']} of {figures['answer_positions']} positions of {figures['prompts']} answers; "
        f"prompt ids {'equal' if figures['prompt_ids_equal'] else 'DIFFER'}\n"
        f"  weights: {figures['tensors_changed']} tensors changed, at most {figures['max_rounding_ulp']:.3f} bf16 "
        f"places from the fp32 sum\n"
        f"  fp32: {fp32}\n"
        f"  bf16: KL {figures['mean_kl']:.1e} = {ratio:.1f}x the noise floor {floor['kl']:.1e}, "
        f"top-1 {figures['top1_agreement']:.4f} (floor {floor['top1']:.4f}), "
        f"{figures['greedy_equal']}/{figures['prompts']} greedy answers equal"
    )


def numbers(figures: dict[str, Any]) -> dict[str, float | None]:
    """The figures for the tracker."""
    same = ("passed", "fp32_kl", "fp32_top1", "greedy_equal", "positions", "tensors_changed")
    found = {f"export/{key}": figures[key] for key in same}
    found |= {"export/kl": figures["mean_kl"], "export/top1": figures["top1_agreement"]}
    return found | {f"export/{key}_floor": figures["floor"][key] for key in ("kl", "top1")}


def verdict(figures: dict[str, Any], export: ExportConfig) -> list[str]:
    """Every threshold of the config that the figures miss: value, limit, what it means. Empty: passed."""
    return [
        *_weights_and_ids(figures, export),
        *_fp32_problems(figures, export),
        *_bf16_problems(figures, export),
    ]


def _weights_and_ids(figures: dict[str, Any], export: ExportConfig) -> list[str]:
    problems = []
    if not figures["max_rounding_ulp"] <= ROUND_TO_NEAREST:
        problems.append(
            f"a merged weight is {figures['max_rounding_ulp']:.3f} bf16 places from the fp32 sum, more than the 0.5 of "
            "one rounding: a wrong merge"
        )
    if not figures["prompt_ids_equal"]:
        problems.append(
            "the exported tokenizer gives other prompt ids than training; the tokenizer files were changed"
        )
    if figures["answer_positions"] < export.min_positions:
        problems.append(
            f"{figures['answer_positions']} answer positions compared, export.min_positions={export.min_positions}; "
            "enlarge the test set or lower export.min_positions"
        )
    return problems


def _fp32_problems(figures: dict[str, Any], export: ExportConfig) -> list[str]:
    problems = []
    if figures["fp32_kl"] is not None and not figures["fp32_kl"] <= export.max_fp32_kl:
        problems.append(
            f"fp32 KL {figures['fp32_kl']:.2e} is above export.max_fp32_kl={export.max_fp32_kl}: a wrong merge"
        )
    if figures["fp32_top1"] is not None and figures["fp32_top1"] < export.min_fp32_top1:
        problems.append(
            f"fp32 top-1 {figures['fp32_top1']:.4f} is below export.min_fp32_top1={export.min_fp32_top1}"
        )
    return problems


def _bf16_problems(figures: dict[str, Any], export: ExportConfig) -> list[str]:
    problems = []
    limit = export.max_kl_over_floor * figures["floor"]["kl"]
    if not figures["mean_kl"] <= limit:
        problems.append(
            f"bf16 KL {figures['mean_kl']:.2e} is above {limit:.2e}, "
            f"export.max_kl_over_floor={export.max_kl_over_floor} times the noise floor"
        )
    lowest = figures["floor"]["top1"] - export.max_top1_below_floor
    if figures["top1_agreement"] < lowest:
        problems.append(
            f"bf16 top-1 agreement {figures['top1_agreement']:.4f} is below {lowest:.4f}, the noise floor's "
            f"{figures['floor']['top1']:.4f} less export.max_top1_below_floor={export.max_top1_below_floor}"
        )
    return problems


def probe_adapter(
    run: RunConfig, adapter: Artifact, base: Artifact, rows: Sequence[dict[str, Any]]
) -> tuple[Probe, Tensor, Renderer]:
    """The adapter as evaluated, its logits at batch 1 unpadded for the noise floor, and what rendered its prompts."""
    loaded = attach_trained(load_base(base, run.model, run.hardware), adapter)
    trained = probe(loaded, rows, run.eval.batch_rows, run.eval.max_new_tokens, "adapter")
    alone = logits_of(loaded, encode(rows, loaded.renderer), 1, "noise floor")
    return trained, alone, loaded.renderer
