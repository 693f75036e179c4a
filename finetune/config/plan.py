"""Settings of the plan: the device, what is asked of it, and what a company refuses."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class Device(Enum):
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class HardwareConfig:
    name: str = MISSING
    device: Device = MISSING
    memory_gib: float | None = None
    """Usable memory of one device, as its driver reports it. None, on a CPU: what this machine or its container has."""
    bf16_tflops: float | None = None
    """Dense bf16 products with fp32 sums, 10^12 operations a second. None: the plan gives no time."""
    bandwidth_gb_s: float | None = None
    """Of the device's memory, 10^9 bytes a second. None: the plan gives no time."""
    link_gb_s: float | None = None
    """From one device to another, 10^9 bytes a second. None: what FSDP sends is counted as free."""
    tdp_w: float | None = None
    """Power that the device is built for: the upper bound of its energy. None: the plan gives no energy."""
    workspace_mib: float = 8.125
    """cuBLAS workspace of a thread: 8.125 before Hopper, 32 on it (torch, aten/src/ATen/cuda/CublasHandlePool.cpp)."""
    workers: int | None = None
    """Processes that read and normalise; the rows do not depend on it. None: one a core."""


@dataclass
class PlanConfig:
    search: bool = False
    """Try micro-batch, checkpointing, offload and packing, and write the fastest settings that fit."""
    force: bool = False
    """Train although the plan says that it does not fit; recorded in the manifest's overrides."""
    gpus: int = 1
    """GPUs that share the weights by FSDP. Training takes one; more only answers what it would need."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU costs you, in any currency. No default: prices differ. None: no cost is given."""
    price_per_kwh: float | None = None
    api_price_per_million_tokens: float | None = None
    """What an API would take for a million tokens, in the same currency; gives the break-even."""
    serve_context: int = 4096
    """Tokens of one served conversation, prompt and answer: decides the key-value cache."""
    memory_margin: float = 0.05
    """How far the predicted peak of a step may lie from the one that a preflight measures, as a share of it."""
    speed_margin: float = 0.30
    """The same for tokens/s, which clocks, cooling and other users of the machine change too."""


@dataclass
class PolicyConfig:
    deny: list[str] = field(default_factory=list)
    """Licence ids or origins (a maker or a country) that this company does not use; `*` stands for anything."""
