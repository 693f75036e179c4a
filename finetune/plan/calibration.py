"""Measured steps of this place, one JSON line each in the format of published ones, for later plans to cite."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from finetune.artifacts import provenance
from finetune.artifacts.manifest import plain
from finetune.config import RunConfig
from finetune.config.plan import Device
from finetune.config.schema import Checkpointing, PathsConfig
from finetune.errors import DataError
from finetune.plan.measured import MIB, Measured, gib
from finetune.plan.settings import Settings

FILE = "calibration.jsonl"
ARCH = {
    "h": "hidden_size",
    "i": "intermediate_size",
    "L": "num_hidden_layers",
    "V": "vocab_size",
    "n_heads": "num_attention_heads",
    "n_kv": "num_key_value_heads",
    "tied": "tie_word_embeddings",
}
"""The shape by the short names of published rows; `settings` has all of it."""


def row_of(run: RunConfig, run_id: str, plan: Mapping[str, Any], found: Measured) -> dict[str, Any]:
    """A measurement in the words of published rows, and whole under `settings`, `hardware` and `predicted`."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return {
        "id": f"preflight-{run_id}",
        "source": "hallmark preflight",
        "source_detail": versions,
        "model": run.model.name,
        "params_b": plan["model"]["parameters"] / 1e9,
        "quant": run.model.quantisation.name,
        "grad_accum": run.train.global_batch // run.train.micro_batch,
        **_step(found.settings),
        **_measurement(found, run.hardware.device is Device.cuda),
        "quality": "A",
        "settings": _plain_settings(found.settings),
        "hardware": plain(replace(run.hardware, memory_gib=plan["device_gib"]["limit"])),
        "predicted": {key: plan[key] for key in ("peak_allocated_gib", "step_s", "verdict")},
    }


def _step(settings: Settings) -> dict[str, Any]:
    """The step's settings by the names of published rows."""
    return {
        "arch": {short: settings.architecture.get(name) for short, name in ARCH.items()},
        "method": "qlora" if settings.quantised else "lora-bf16",
        "double_quant": settings.quantised and settings.double_quantised,
        "seq_len": settings.tokens,
        "micro_batch": settings.rows,
        "tokens_per_micro_step": settings.rows * settings.tokens,
        "lora_rank": settings.rank,
        "lora_targets": ",".join(settings.targets),
        "optimizer": settings.optimizer.name,
        "gradient_checkpointing": settings.checkpointing is not Checkpointing.none,
        "attention": settings.attention.name,
        "loss_kernel": settings.head.name,
    }


def _measurement(found: Measured, cuda: bool) -> dict[str, Any]:
    """What the device showed, by the names of published rows."""
    return {
        "gpu": found.device,
        "num_gpus": 1,
        "sharding": "none",
        "peak_value": found.allocated,
        "peak_unit": "B",
        "peak_gib": None if found.out_of_memory else gib(found.allocated),
        "peak_kind": "torch_max_allocated" if cuda else "followed tensors",
        "device_used_mib": None if found.used is None else found.used / MIB,
        "static_alloc_gib": None,
        "tokens_per_s_per_gpu": found.tokens_per_s,
        "time": f"{', '.join(f'{second:.3f}' for second in found.step_s)} s a step, the first warms up",
        "oom": found.out_of_memory,
        "left_gib": gib(found.left),
        "notes": f"out of memory in {found.doing}" if found.out_of_memory else "",
    }


def _plain_settings(settings: Settings) -> dict[str, Any]:
    """As JSON; private keys of a config.json, such as where it was loaded from, stay out."""
    found: dict[str, Any] = plain(settings)
    shape = found["architecture"]
    return found | {"architecture": {key: value for key, value in shape.items() if not key.startswith("_")}}


def settings_of(row: Mapping[str, Any]) -> Settings:
    """The settings that `row_of` wrote. Raises KeyError or TypeError for a row of another version."""
    kinds = get_type_hints(Settings)
    return Settings(**{name: _typed(kinds[name], value) for name, value in row["settings"].items()})


def _typed(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value]
    return tuple(value) if isinstance(value, list) else value


def append(paths: PathsConfig, row: Mapping[str, Any]) -> Path:
    """Add one line to $ARTIFACTS_ROOT/calibration.jsonl, whole, whoever else writes; the file's path."""
    path = Path(paths.artifacts_root) / FILE
    with path.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # closing gives it back
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return path


def read(paths: PathsConfig) -> Iterator[dict[str, Any]]:
    """All measured rows, oldest first; none where nothing was measured. Raises DataError for a damaged line."""
    path = Path(paths.artifacts_root) / FILE
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            yield json.loads(line)
        except ValueError:
            raise DataError(f"{path}:{number} is not JSON; delete that line") from None


def notes(run: RunConfig) -> list[str]:
    """A line for the plan on what preflights of this model measured on this hardware; none where there was none."""
    rows = [row for row in read(run.paths) if _is_of(row, run)]
    errors = [row["predicted"]["peak_allocated_gib"] / row["peak_gib"] - 1 for row in rows if row["peak_gib"]]
    if not errors:
        return []
    last = next(row for row in reversed(rows) if row["peak_gib"])
    speed = f"{last['tokens_per_s_per_gpu']:,.0f} tokens/s at {last['micro_batch']} rows of {last['seq_len']} tokens"
    return [
        f"measured by {len(errors)} preflights of {run.model.name} on {run.hardware.name}: their memory was predicted "
        f"at most {max(errors, key=abs):+.1%} off; the last ran {speed}"
    ]


def _is_of(row: Mapping[str, Any], run: RunConfig) -> bool:
    return bool(row["model"] == run.model.name and row["hardware"]["name"] == run.hardware.name)
