"""Are the merged weights the adapter that was evaluated? Token ids, logits and answers, beside the noise floor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapter_weights import read_adapter
from finetune.artifacts import Artifact
from finetune.config import RunConfig
from finetune.config.plan import Device
from finetune.config.schema import ExportConfig
from finetune.merge import Base, merged_tensors
from finetune.model import ADAPTER, TrainedOn, attach_trained, is_quantised, load_base, load_plain
from finetune.probe import Probe, encode, logits_of, probe, probe_fresh
from finetune.rows import read_rows

MARGIN_QUANTILE = 0.999
FLOOR_SHAPE = "adapter at evaluation's batch against adapter at batch 1 unpadded, bf16, same positions"


@dataclass(frozen=True)
class Agreement:
    """Two models at the same positions: mean KL(a || b) in nats, share of equal top-1, change of the top-2 gap."""

    kl: float
    top1: float
    margin: float


def measure(run: RunConfig, adapter: Artifact, base: TrainedOn, test: Path, merged: Path) -> dict[str, Any]:
    """The fields of fidelity.json, those of the merge itself excepted."""
    # at evaluation's batch 1 the floor would be the adapter against its very self: 0, which nothing meets
    run = replace(run, eval=replace(run.eval, batch_rows=max(2, run.eval.batch_rows)))
    rows = read_rows(test)
    trained, alone = _probe_adapter(run, adapter, base.read, rows)
    torch.cuda.empty_cache()  # the fresh process needs the room
    fresh = probe_fresh(merged, test, run)
    floor, found = agreement(trained.logits, alone), agreement(trained.logits, fresh.logits)
    fp32 = compare_fp32(as_trained(run, adapter, base), adapter, rows, run) if run.export.fp32_check else None
    figures = {
        "base": "dequantised" if adapter.manifest.facts["quantised"] else "original",
        "prompt_ids_equal": trained.prompts == fresh.prompts,
        "fp32_kl": fp32.kl if fp32 else None,
        "fp32_top1": fp32.top1 if fp32 else None,
        "floor": {"kl": floor.kl, "top1": floor.top1, "margin": floor.margin},
        "floor_shape": FLOOR_SHAPE,
        "top1_agreement": found.top1,
        "mean_kl": found.kl,
        "positions": len(trained.logits),
        "greedy_equal": sum(a == b for a, b in zip(trained.answers, fresh.answers, strict=True)),
        "prompts": len(rows),
    }
    problems = verdict(figures, run.export)
    return {**figures, "passed": not problems, "problems": problems}


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
        f"{figures['positions']} positions of {figures['prompts']} prompts; prompt ids "
        f"{'equal' if figures['prompt_ids_equal'] else 'DIFFER'}\n"
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


def as_trained(run: RunConfig, adapter: Artifact, base: TrainedOn) -> Base:
    """The base with the quantised modules of the adapter's manifest, quantised where training did it."""
    quantised = frozenset(adapter.manifest.facts["quantised"])
    device = "cuda:0" if run.hardware.device is Device.cuda else "cpu"
    kept = base.read.folder if is_quantised(base.read.folder) else None
    return Base(base.pinned.folder, quantised, run.model.double_quantisation, device, kept)


def verdict(figures: dict[str, Any], export: ExportConfig) -> list[str]:
    """Every threshold of the config that the figures miss: value, limit, what it means. Empty: passed."""
    problems = []
    if not figures["prompt_ids_equal"]:
        problems.append(
            "the exported tokenizer gives other prompt ids than training; the tokenizer files were changed"
        )
    if figures["positions"] < export.min_positions:
        problems.append(
            f"{figures['positions']} answer positions compared, export.min_positions={export.min_positions}; "
            "enlarge the test set or lower export.min_positions"
        )
    if figures["fp32_kl"] is not None and figures["fp32_kl"] > export.max_fp32_kl:
        problems.append(
            f"fp32 KL {figures['fp32_kl']:.2e} is above export.max_fp32_kl={export.max_fp32_kl}: a wrong merge"
        )
    if figures["fp32_top1"] is not None and figures["fp32_top1"] < export.min_fp32_top1:
        problems.append(
            f"fp32 top-1 {figures['fp32_top1']:.4f} is below export.min_fp32_top1={export.min_fp32_top1}"
        )
    limit = export.max_kl_over_floor * figures["floor"]["kl"]
    if figures["mean_kl"] > limit:
        problems.append(
            f"bf16 KL {figures['mean_kl']:.2e} is above {limit:.2e}, "
            f"export.max_kl_over_floor={export.max_kl_over_floor} times the noise floor"
        )
    return problems


def _probe_adapter(
    run: RunConfig, adapter: Artifact, base: Artifact, rows: Sequence[dict[str, Any]]
) -> tuple[Probe, Tensor]:
    """The adapter as evaluated, and its logits at batch 1 unpadded for the noise floor."""
    loaded = attach_trained(load_base(base, run.model, run.hardware), adapter)
    trained = probe(loaded, rows, run.eval.batch_rows, run.eval.max_new_tokens, "adapter")
    return trained, logits_of(loaded, encode(rows, loaded.renderer), 1, "noise floor")


def agreement(first: Tensor, second: Tensor, chunk: int = 256) -> Agreement:
    """Agreement of two logit tensors [positions, vocabulary]; float64 sums, so that 1e-9 is not rounding."""
    kl, same, gaps = 0.0, 0, []
    for a, b in zip(torch.split(first, chunk), torch.split(second, chunk), strict=True):
        a, b = a.double().log_softmax(-1), b.double().log_softmax(-1)
        kl += float((a.exp() * (a - b)).sum())
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        top_a, top_b = a.topk(2, -1).values, b.topk(2, -1).values
        gaps.append(((top_a[:, 0] - top_a[:, 1]) - (top_b[:, 0] - top_b[:, 1])).abs())
    margin = float(torch.cat(gaps).quantile(MARGIN_QUANTILE))
    return Agreement(kl / len(first), same / len(first), margin)


def compare_fp32(base: Base, adapter: Artifact, rows: Sequence[dict[str, Any]], run: RunConfig) -> Agreement:
    """Unmerged adapter against merged weights, both in fp32 on the dequantised base.

    Equal but for the order of sums: a larger difference is a wrong merge. Needs 4 bytes a parameter.
    """
    from peft import PeftModel

    loaded = load_plain(base.folder, run.model, run.hardware, torch.float32)
    encoded = encode(rows, loaded.renderer)
    _overwrite(loaded.model, base.tensors())
    trained = PeftModel.from_pretrained(loaded.model, adapter.path(ADAPTER)).eval()
    first = logits_of(replace(loaded, model=trained), encoded, run.eval.batch_rows, "fp32 adapter")
    merged = trained.unload()
    on_cpu = ((name, tensor.cpu()) for name, tensor in merged.state_dict().items())
    _overwrite(merged, merged_tensors(on_cpu, read_adapter(adapter.path(ADAPTER))))
    second = logits_of(replace(loaded, model=merged), encoded, run.eval.batch_rows, "fp32 merged")
    return agreement(first, second)


def _overwrite(network: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy the tensors that the network holds; buffers that old checkpoints carry (inv_freq) it computes itself."""
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in tensors:
            if name in state:
                state[name].copy_(tensor)
