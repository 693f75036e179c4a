"""Which base the adapter is merged onto: as the config says, or the one whose merge behaves more like the adapter."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.adapter_reading import read_adapter
from finetune.artifacts import Artifact, Output
from finetune.artifacts.folders import CHECKPOINTS
from finetune.config import RunConfig
from finetune.config.plan import Device
from finetune.config.schema import MergeBase
from finetune.console import say
from finetune.merge import Merged, records_of, write_merged
from finetune.merge_base import Base
from finetune.model import ADAPTER, TrainedOn, is_quantised

RECORDS = "merge"


@dataclass(frozen=True)
class Chosen:
    """What is exported: the kind of base, the base itself, the merge, and the figures of all that were measured."""

    base: MergeBase
    source: Base
    merged: Merged
    candidates: dict[str, Any] = field(default_factory=dict)


def merge_onto(
    run: RunConfig, kind: MergeBase, adapter: Artifact, base: TrainedOn, output: Output, copies: int = 1
) -> Chosen:
    """Merge onto the base of this kind, file by file into the output; there must be room for so many copies."""
    source = source_of(run, adapter, base, kind)
    if not source.quantised:
        kind = MergeBase.original  # an adapter of a bf16 base saw no other
    say(f"merging onto the {kind.name} base: fp32 sums, one rounding to bf16")
    folder = adapter.path(ADAPTER)
    records = records_of(output.path(CHECKPOINTS) / RECORDS, source, folder, Path(run.paths.artifacts_root))
    return Chosen(kind, source, write_merged(source, read_adapter(folder), output.folder, records, copies))


def source_of(run: RunConfig, adapter: Artifact, base: TrainedOn, kind: MergeBase) -> Base:
    """The base of this kind; dequantised are the modules of the adapter's manifest, and where training did it."""
    device = "cuda:0" if run.hardware.device is Device.cuda else "cpu"
    quantised = (
        frozenset(adapter.manifest.facts["quantised"]) if kind is not MergeBase.original else frozenset()
    )
    kept = base.read.folder if quantised and is_quantised(base.read.folder) else None
    return Base(base.pinned.folder, quantised, run.model.double_quantisation, device, kept)


def change_config(output: Output, changed: Mapping[str, Any]) -> None:
    """Put what the adapter changed, such as the number of tokens, into the export's config.json."""
    if not changed:
        return
    config = json.loads(output.path("config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        part.update({key: value for key, value in changed.items() if key in part or part is config})
    output.write_text("config.json", json.dumps(config, indent=2) + "\n")
