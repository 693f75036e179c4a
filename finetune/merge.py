"""Adapter into base, file by file and a few rows at a time: fp32 sums, one rounding, nothing else touched."""

import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.adapter_reading import WEIGHTS
from finetune.adapter_weights import AdapterWeights
from finetune.artifacts import atomic, require_room
from finetune.artifacts.hashing import HashCache, canonical, sha256_file, sha256_text
from finetune.base_checks import INDEX
from finetune.console import live, say
from finetune.errors import DataError
from finetune.merge_base import Base
from finetune.merge_plan import Plan, plan_merge
from finetune.merge_records import Records, unfinished_bytes
from finetune.merge_shard import Crew, Made, write_shard

MEBIBYTE = 1 << 20
SHARED = 1 << 20
"""Bytes of index and records, and to spare."""


@dataclass
class Merged:
    """What a merge changed: tensors with their xxh3_128, the largest rounding error in units of the last bf16 place."""

    changed: dict[str, str] = field(default_factory=dict)
    max_rounding_ulp: float = 0.0
    modules: set[str] = field(default_factory=set)
    """LoRA modules of which a tensor changed."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings of config.json that the adapter changed, such as vocab_size."""

    def digest(self) -> str:
        """One sha256 over the changed tensors' names and theirs."""
        return sha256_text(canonical(self.changed))

    def add(self, made: Made) -> None:
        """Count one more shard."""
        self.changed |= made.changed
        self.modules |= set(made.modules)
        self.max_rounding_ulp = max(self.max_rounding_ulp, made.max_rounding_ulp)


def records_of(folder: Path, base: Base, adapter: Path, root: Path) -> Records:
    """Where a merge notes in `folder` which files are finished; `root` is the artifacts root, whose cache learns them.

    `adapter` is the folder that PEFT wrote.
    """
    made_from = {
        "base": base.read.name,
        "quantised": sorted(base.quantised),
        "adapter": sha256_file(adapter / WEIGHTS),
        "versions": [importlib.metadata.version(name) for name in ("torch", "bitsandbytes")],
    }
    return Records(folder, made_from, HashCache(root, rehash=False))


def merged_tensors(
    base_tensors: Iterable[tuple[str, Tensor]], adapter: AdapterWeights
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the base: in fp32 where the adapter changes it, every other tensor as it came.

    Raises DataError where the adapter does not fit its tensor or the result is not finite.
    """
    changed = adapter.names()
    for name, tensor in base_tensors:
        module = name.removesuffix(".weight")
        yield name, adapter.merged(module, tensor) if {name, module} & changed else tensor


def write_merged(
    base: Base, adapter: AdapterWeights, folder: Path, records: Records | None = None, copies: int = 1
) -> Merged:
    """Write the merged bf16 model, sharded as the base is, and return what changed.

    With `records` a file that an earlier attempt finished is checked and not written again. There must be room for
    `copies` of the weights. Raises DataError where the adapter does not fit the base, changes fewer tensors than it has
    modules, or leads to a value that is not finite; MachineError where the disk is too small.
    """
    plan = plan_merge(base, adapter)
    merged = Merged(config=dict(plan.config))
    done = {} if records is None else _finished(plan, folder, records)
    total = sum(shard.size for shard in plan.shards)
    needed = unfinished_bytes(plan, folder, done) + (copies - 1) * total + SHARED
    require_room(folder, needed, "the merged model")
    written = 0
    ticks = live("merged MiB", -(-total // MEBIBYTE))
    with Crew() as crew:
        for shard in plan.shards:
            path = folder / shard.name
            made = done.get(shard.name)
            if made is None:
                made = write_shard(shard, path, crew)
                if records is not None:
                    records.keep(shard, path, made)
            merged.add(made)
            written += shard.size
            ticks.update(written // MEBIBYTE if written < total else -(-total // MEBIBYTE))
    ticks.close()
    _require_changed(plan, merged)
    if (base.folder / INDEX).is_file():
        atomic.replace_text(folder / INDEX, json.dumps(plan.index(), indent=2) + "\n")
    atomic.sync(folder)
    return merged


def _finished(plan: Plan, folder: Path, records: Records) -> dict[str, Made]:
    found = {shard.name: records.finished(shard, folder / shard.name) for shard in plan.shards}
    done = {name: made for name, made in found.items() if made is not None}
    for name, made in done.items():
        records.remember(folder / name, made)
    if done:
        say(
            f"{len(done)} of {len(plan.shards)} files were finished before and are whole; going on with the next"
        )
    return done


def _require_changed(plan: Plan, merged: Merged) -> None:
    if not merged.changed or len(merged.modules) < plan.modules:
        raise DataError(
            f"{len(merged.modules)} of {plan.modules} adapted modules differ from the base after the merge: the others "
            "were not trained, or what they learned is below what bf16 can hold; train the adapter, or further"
        )
