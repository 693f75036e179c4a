"""The merge against the adapter in fp32, where only the order of sums may differ."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapter_reading import read_adapter
from finetune.agreement import Agreement, agreement
from finetune.config import RunConfig
from finetune.merge_base import Base
from finetune.merge_plan import Plan, plan_merge
from finetune.merge_shard import sums
from finetune.model import load_plain
from finetune.probe import encode, logits_of


def compare_fp32(
    base: Base, adapter: Path, merged: Path, rows: Sequence[dict[str, Any]], run: RunConfig
) -> Agreement:
    """Unmerged adapter against the sums of the merge before they are rounded, on the same base, one after the other.

    Needs 4 bytes a parameter. `adapter` is the folder that PEFT wrote, `merged` the finished one with its settings.
    """
    plan = plan_merge(base, read_adapter(adapter))
    first = _adapter_logits(base, plan, adapter, rows, run)
    loaded = load_plain(merged, run.model, run.hardware, torch.float32)
    _overwrite(loaded.model, sums(plan))
    second = logits_of(loaded, encode(rows, loaded.renderer), run.eval.batch_rows, "fp32 merged")
    return agreement(first, second)


def _adapter_logits(
    base: Base, plan: Plan, adapter: Path, rows: Sequence[dict[str, Any]], run: RunConfig
) -> Tensor:
    from peft import PeftModel

    loaded = load_plain(base.folder, run.model, run.hardware, torch.float32)
    if "vocab_size" in plan.config:
        loaded.model.resize_token_embeddings(plan.config["vocab_size"], mean_resizing=False)
    _overwrite(loaded.model, sums(plan, adapted=False))
    trained = PeftModel.from_pretrained(loaded.model, adapter).eval()
    encoded = encode(rows, loaded.renderer)
    return logits_of(replace(loaded, model=trained), encoded, run.eval.batch_rows, "fp32 adapter")


def _overwrite(network: Any, pieces: Iterator[tuple[str, int, Tensor]]) -> None:
    """Copy rows of tensors that the network holds; buffers that old files carry (inv_freq) it computes itself."""
    state = network.state_dict()
    with torch.no_grad():
        for name, first_row, piece in pieces:
            if name in state:
                rows = state[name].reshape(-1, piece.shape[1])  # a view: parameters are contiguous
                rows[first_row : first_row + len(piece)].copy_(piece)
