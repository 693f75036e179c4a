"""`export.base=auto`: the adapter merged onto both bases, each measured on validation rows, one of them shipped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.agreement import agreement
from finetune.artifacts import Artifact, Output, atomic
from finetune.artifacts.folders import CHECKPOINTS
from finetune.base_checks import INDEX, shards
from finetune.chat import Encoded, Renderer
from finetune.config import RunConfig
from finetune.config.schema import MergeBase
from finetune.console import say
from finetune.errors import ConfigError
from finetune.free_positions import answer_of
from finetune.merge_choice import Chosen, merge_onto
from finetune.model import TrainedOn, attach_trained, load_base
from finetune.probe import Probe, encode, probe, probe_fresh
from finetune.rows import read_rows

BOTH = (MergeBase.dequantised, MergeBase.original)
NOISE = 2.0
"""Standard errors of the paired difference by which an answer loss must be lower to overrule the KL."""
Complete = Callable[[Output, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Measured:
    """One merge on the validation rows: what fidelity.json says of it, and the mean answer loss of each row in nats."""

    figures: dict[str, float]
    losses: Tensor


def merge_chosen(
    run: RunConfig, adapter: Artifact, base: TrainedOn, data: Artifact, output: Output, complete: Complete
) -> Chosen:
    """The merge that `export.base` asks for, in the output; `complete` puts settings and tokenizer beside weights."""
    if run.export.base is MergeBase.auto and adapter.manifest.facts["quantised"]:
        return _merge_both(run, adapter, base, data, output, complete)
    return merge_onto(run, run.export.base, adapter, base, output)


def _merge_both(
    run: RunConfig, adapter: Artifact, base: TrainedOn, data: Artifact, output: Output, complete: Complete
) -> Chosen:
    """Merge onto both bases and keep the better merge in the output. Raises ConfigError without validation rows."""
    rows = read_rows(data.path("val.jsonl"))[: run.export.auto_rows]
    if not rows:
        raise ConfigError(
            "export.base=auto measures on val.jsonl, which has no row; set export.base=dequantised"
        )
    merges: dict[MergeBase, Chosen] = {}
    for kind in BOTH:
        candidate = Output(output.path(CHECKPOINTS) / kind.name)
        atomic.make_folder(candidate.folder)
        waiting = len(BOTH) - len(merges)
        merges[kind] = merge_onto(run, kind, adapter, base, candidate, waiting)
        complete(candidate, merges[kind].merged.config)
    measured = _measured(
        run, adapter, base, data, {kind: output.path(CHECKPOINTS) / kind.name for kind in BOTH}
    )
    winner, why = better({kind.name: measured[kind] for kind in BOTH})
    say(f"export.base=auto: merged onto the {winner} base, {why}")
    chosen = merges[MergeBase[winner]]
    for name in [*(path.name for path in shards(base.pinned.folder)), INDEX]:
        if (output.path(CHECKPOINTS) / winner / name).is_file():
            atomic.adopt(output.path(CHECKPOINTS) / winner / name, output.path(name))
    candidates = {kind.name: measured[kind].figures for kind in BOTH}
    return replace(chosen, candidates={**candidates, "rows": len(rows), "chosen": winner, "because": why})


def _measured(
    run: RunConfig, adapter: Artifact, base: TrainedOn, data: Artifact, folders: Mapping[MergeBase, Path]
) -> dict[MergeBase, Measured]:
    file, count = data.path("val.jsonl"), run.export.auto_rows
    rows = read_rows(file)[:count]
    trained, encoded = _as_evaluated(run, adapter, base, rows)
    torch.cuda.empty_cache()  # the fresh processes need the room
    return {
        kind: measured_on(trained, probe_fresh(folder, file, run, count), encoded)
        for kind, folder in folders.items()
    }


def _as_evaluated(
    run: RunConfig, adapter: Artifact, base: TrainedOn, rows: Sequence[dict[str, Any]]
) -> tuple[Probe, list[Encoded]]:
    loaded = attach_trained(load_base(base.read, run.model, run.hardware), adapter)
    renderer: Renderer = loaded.renderer
    found = probe(loaded, rows, run.eval.batch_rows, run.eval.max_new_tokens, "adapter, validation")
    return found, encode(rows, renderer)


def measured_on(trained: Probe, merged: Probe, rows: Sequence[Encoded]) -> Measured:
    """A merge against the adapter as evaluated and against the gold answers, teacher-forced and greedy."""
    answers = [answer_of(row) for row in rows]
    labels = torch.tensor([token for answer in answers for token in answer])
    scores = merged.logits.double()
    losses = scores.logsumexp(-1) - scores.gather(1, labels[:, None])[:, 0]
    found = agreement(trained.logits, merged.logits)
    exact = sum(list(ids) == answer for ids, answer in zip(merged.answers, answers, strict=True))
    per_row = torch.stack([part.mean() for part in torch.split(losses, [len(answer) for answer in answers])])
    figures = {
        "answer_loss": float(losses.mean()),
        "exact_match": exact / len(answers),
        "kl": found.kl,
        "top1": found.top1,
    }
    return Measured(figures, per_row)


def better(measured: Mapping[str, Measured]) -> tuple[str, str]:
    """The merge to ship, and why.

    The one of the lower KL to the adapter, which is what was evaluated; the other where its answer loss is lower by
    more than NOISE standard errors of the paired difference over the rows.
    """
    near, far = sorted(measured, key=lambda name: measured[name].figures["kl"])
    gain = measured[near].losses - measured[far].losses
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    lower = float(gain.mean())
    if lower > NOISE * error:
        return (
            far,
            f"whose answer loss is {lower:.4f} nats a row lower, more than {NOISE:.0f} x {error:.4f} of noise",
        )
    figures = measured[near].figures["kl"], measured[far].figures["kl"]
    return near, f"whose KL to the adapter is {figures[0]:.2e}, the other's {figures[1]:.2e}"
