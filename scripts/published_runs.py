"""Training runs (rows of memory_points.json, or of a preflight's calibration.jsonl) in the words of the simulation.

What a published row does not say is a fact of the software that made it, by source: see STACKS. A preflight's row says
all of it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from finetune.config import recorded
from finetune.config.load import CONF
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, Optimizer
from finetune.plan import calibration
from finetune.plan.settings import AttentionKernel, Head, Settings, Upcast
from scripts.published_shapes import UnexpressedError, architecture_of

HEADS = (
    ("liger", Head.fused),
    ("cut cross", Head.fused),
    ("fast ce", Head.in_place),
    ("unsloth", Head.in_place),
    ("chunked lm_head", Head.plain),
    ("chunked", Head.chunked),
    ("fused", Head.fused),
    ("cce", Head.fused),
    ("default", Head.materialised),
    ("materiali", Head.materialised),
    ("standard", Head.materialised),
    ("torch", Head.materialised),
    ("not stated", Head.materialised),
    ("unspecified", Head.materialised),
    ("unknown", Head.materialised),
)
GPUS = {
    "A100-SXM4-40GB": "a100_40gb",
    "A100-40GB": "a100_40gb",
    "A100": "a100_80gb",
    "H100": "h100_80gb",
    "H200": "h200_141gb",
    "L40S": "l40s_48gb",
    "RTX 4090": "rtx4090_24gb",
    "RTX4090": "rtx4090_24gb",
}
"""Records of conf/hardware by what sources call the device; the first that fits counts."""
MOST = 10_000_000
USABLE = 0.96
"""Of a device's gigabytes in its name, what drivers report as GiB free: 39.4 of 40 and 79.1 of 80 and less."""


def settings_of(row: Mapping[str, Any]) -> Settings:
    """The step of a run. Raises UnexpressedError with the reason."""
    if "settings" in row:
        return _hallmark(row)
    if row["lora_rank"] is None:
        raise UnexpressedError("no LoRA rank is stated: not an adapter run")
    rows, tokens, rank = (_count(row, key) for key in ("micro_batch", "seq_len", "lora_rank"))
    settings = Settings(
        architecture=architecture_of(row),
        rows=rows,
        tokens=tokens,
        accumulates=(row.get("grad_accum") or 1) > 1,
        rank=rank,
        targets=targets_of(row),
        quantised=_quantised(row),
        double_quantised=bool(row.get("double_quant")),
        optimizer=optimizer_of(row),
        checkpointing=Checkpointing.full if row.get("gradient_checkpointing") else Checkpointing.none,
        offload="activation offload" in str(row.get("notes")).lower(),
        head=_head(row),
        attention=AttentionKernel.eager if "eager" in str(row.get("attention")) else AttentionKernel.flash,
        gpus=_gpus(row),
    )
    stack = next((facts for name, facts in STACKS.items() if name in str(row["source"])), _transformers_2024)
    return stack(settings, row)


def _count(row: Mapping[str, Any], key: str) -> int:
    """A whole number above 0, and no larger than any run has."""
    value = row[key]
    if type(value) not in (int, float) or value != value // 1 or not 0 < value <= MOST:
        raise UnexpressedError(f"{key} is {str(value)[:20]}, not a whole number from 1 to {MOST:,}")
    return int(value)


def hardware_of(row: Mapping[str, Any]) -> HardwareConfig:
    """The record of a run's device; of an unknown GPU only the memory, by its name. Raises UnexpressedError.

    Of a preflight's device that ran out of memory, what other processes left of it.
    """
    if "hardware" in row:
        return _left_to_the_run(recorded(HardwareConfig, row["hardware"]), row)
    name = next((record for key, record in GPUS.items() if key in str(row["gpu"])), None)
    if name is not None:
        found = OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{name}.yaml"))
        assert isinstance(found, dict)  # noqa: S101
        return recorded(HardwareConfig, {str(key): value for key, value in found.items()})
    size = re.search(r"(\d+) ?GB", str(row["gpu"]))
    if size is None:
        raise UnexpressedError(f"GPU {row['gpu']} is not known")
    return HardwareConfig("other", Device.cuda, USABLE * float(size[1]))


def _left_to_the_run(hardware: HardwareConfig, row: Mapping[str, Any]) -> HardwareConfig:
    if not row["oom"]:
        return hardware
    if row.get("left_gib") is None:
        raise UnexpressedError("out of memory, and what other processes left of the device is not known")
    return replace(hardware, memory_gib=min(hardware.memory_gib or row["left_gib"], row["left_gib"]))


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
FUSED = ("stablelm-base-alpha", "pythia", "neox", "falcon")
"""Models whose queries, keys and values are one layer, whatever names a row gives it."""
SHORT = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj", "output": "o_proj", "o": "o_proj"}


def targets_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The adapted layers by transformers' names."""
    text = str(row.get("lora_targets") or "").lower()
    if not text or "all" in text:
        return ("all-linear",)
    if any(word in str(row["model"]).lower() for word in FUSED):
        return ("query_key_value",)
    found: list[str] = []
    for word in re.split(r"[,+\s/]+", text):
        found += MLP if word == "mlp" else ATTENTION if word in ("attn", "qkvo") else [SHORT.get(word, word)]
    return tuple(dict.fromkeys(name for name in found if name))


def optimizer_of(row: Mapping[str, Any]) -> Optimizer:
    """Adam in the precision that the row names."""
    text = str(row.get("optimizer") or "adamw").lower()
    eight = "8bit" in text or "8-bit" in text
    if "adam" not in text:
        raise UnexpressedError(f"optimizer {row['optimizer']} is not Adam")
    if "paged" in text:
        return Optimizer.paged_adamw_8bit if eight else Optimizer.paged_adamw_32bit
    return Optimizer.adamw_8bit if eight else Optimizer.adamw_torch


def _quantised(row: Mapping[str, Any]) -> bool:
    text = str(row["quant"] or "none").lower()
    if text.startswith(("nf4", "bnb", "fp4")) and not any(word in text for word in ("int8", "8bit", "8-bit")):
        return True
    if text not in ("none", "bf16", "fp16", "16-bit"):
        raise UnexpressedError(f"base stored as {row['quant']}, not NF4 or bf16")
    return False


def _head(row: Mapping[str, Any]) -> Head:
    text = str(row.get("loss_kernel") or "hf default").lower()
    found = next((head for key, head in HEADS if key in text), None)
    if found is None:
        raise UnexpressedError(f"loss head {row['loss_kernel']} is not known")
    return found


def _gpus(row: Mapping[str, Any]) -> int:
    """GPUs that share the weights; with replicas of the model each one is a run of its own."""
    count = 1 if row["num_gpus"] is None else _count(row, "num_gpus")
    sharding = str(row.get("sharding") or "none").lower()
    if count == 1 or any(word in sharding for word in REPLICAS):
        return 1
    if "fsdp" not in sharding or any(word in sharding for word in ("offload", "shard_grad_op", "hybrid")):
        raise UnexpressedError(f"{count} GPUs by {row.get('sharding')}, not FSDP's FULL_SHARD on the GPUs")
    return count


REPLICAS = ("ddp", "data parallel", "data-parallel", "zero-1", "zero1", "zero-2", "zero2")
"""What these share out, the adapter's gradients and moments, is small."""


def _hallmark(row: Mapping[str, Any]) -> Settings:
    """A preflight's own settings, each of them."""
    try:
        return calibration.settings_of(row)
    except (KeyError, TypeError) as error:
        raise UnexpressedError(f"settings of another version of Hallmark: {error}") from None


def _transformers_2024(settings: Settings, row: Mapping[str, Any]) -> Settings:
    """transformers 4, peft and bitsandbytes before 0.45, as most published runs were made."""
    upcast = Upcast.norms if "fp32 upcast" in str(row.get("notes")) and settings.gpus == 1 else Upcast.none
    return replace(settings, reentrant=True, keeps_inputs=True, upcast=upcast, linear_experts=True)


def _fms(settings: Settings, row: Mapping[str, Any]) -> Settings:
    """scripts/benchmarks of that repository: scenarios.yaml runs bf16 LoRA without autocast and QLoRA with it; `foak`
    fuses RMSNorm. Its requirements pin bitsandbytes 0.43.3, torch 2.4.1, and transformers 4.45.2; 4.48.1 for
    a100_80gb.csv, which was measured anew in February 2025 (its pull request 123)."""
    fused = settings.head in (Head.fused, Head.in_place)
    old = _transformers_2024(settings, row)
    renewed = "refs/a100_80gb.csv" in str(row.get("source_detail"))
    return replace(old, autocast=settings.quantised, fused_ops=fused, keeps_logits=renewed)


def _litgpt(settings: Settings, row: Mapping[str, Any]) -> Settings:
    """`bf16-true`: adapters and moments in bf16, no autocast; lora_dropout 0.05 (litgpt/finetune/lora.py)."""
    return replace(
        settings,
        lora_bytes=2,
        autocast=False,
        keeps_inputs=settings.quantised,
        dropout=True,
        linear_experts=True,
        fused_qkv=True,
    )


def _torchtune(settings: Settings, row: Mapping[str, Any]) -> Settings:
    """Everything in bf16 (recipes/configs, dtype: bf16)."""
    if settings.quantised:
        raise UnexpressedError("torchao NF4 of the adapted layers alone, not bitsandbytes'")
    compiled = "compile" in str(row.get("notes"))
    return replace(settings, lora_bytes=2, autocast=False, fused_ops=compiled)


STACKS: dict[str, Callable[[Settings, Mapping[str, Any]], Settings]] = {
    "fms-acceleration": _fms,
    "litgpt": _litgpt,
    "torchtune": _torchtune,
}
