"""How long a step takes: the work of the simulated step against the rates of the hardware, and one calibrated share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.config.plan import HardwareConfig
from finetune.config.schema import Checkpointing
from finetune.plan.settings import Settings

if TYPE_CHECKING:
    from finetune.plan.simulate import Simulation

SHARE = 0.78
"""Of the device's peak rates, of arithmetic and of memory alike, that a step reaches: the one calibrated constant.

`scripts/calibrate_speed.py` fits it to published runs on A100 and prints what it errs on sources that it has not seen.
"""
DEQUANTISE_SHARE = 0.167
"""Of the memory's rate that bitsandbytes' NF4 kernel reaches: 0.31-0.37 of 2.04 TB/s on an A100, before version 0.48.

Newer ones are 1.36 to 2.07 times faster on A100 and H100, hardly on Ada (bitsandbytes#1747); they are counted as slow
as before, since no published run was made with them.
"""
LAUNCH_S = 15e-6
"""Seconds until a kernel of eager PyTorch is on its way: the middle of the 5 to 25 microseconds of
jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel.html. Decides steps of few tokens alone."""
HOST_GB_S = 32.0
"""PCIe Gen4 x16, one direction: what offloaded activations take.

transformers copies them on the stream that computes (modeling_utils.py, activation_checkpointing_enable), so it waits.
"""
ADAM_BYTES = 28
"""A trained parameter's weight, gradient and two moments read, all but the gradient written, in fp32."""


@dataclass(frozen=True)
class Speed:
    """The predicted speed of training. Rates count every token that the steps compute, padding too, on all devices."""

    step_s: float
    """An optimizer step: its micro-steps and Adam."""
    tokens_per_s: float
    utilisation: float
    """Of the peak arithmetic, every operation counted, recomputation too (HFU)."""
    model_utilisation: float
    """Of the peak arithmetic, forward and activation gradients counted alone: the 4N of frozen weights (MFU)."""
    bound: str
    """What a micro-step waits for longest: compute, memory, launches, or transfers."""
    note: str

    def run_hours(self, steps: int) -> float:
        """Hours of this many optimizer steps; evaluation, checkpoints and loading are not in them."""
        return steps * self.step_s / 3600


def step_speed(
    simulation: "Simulation",
    settings: Settings,
    hardware: HardwareConfig,
    accumulation: int,
    share: float = SHARE,
) -> Speed | None:
    """The speed of a simulated micro-step repeated `accumulation` times; None where the hardware has no rates.

    A roofline: products at the peak arithmetic, and what every kernel reads and writes at the peak bandwidth, one after
    the other, both at `share` of it.
    """
    if hardware.bf16_tflops is None or hardware.bandwidth_gb_s is None:
        return None
    peak, bandwidth = 1e12 * hardware.bf16_tflops, 1e9 * hardware.bandwidth_gb_s
    parts = micro_step(simulation, settings, hardware, share)
    computing = parts["compute"] + parts["memory"]
    micro_s = max(computing, parts["launches"]) + parts["transfers"] + parts["gathering"]
    step_s = accumulation * micro_s + ADAM_BYTES * simulation.trained / (share * bandwidth)
    flops = simulation.work.flops
    useful = 2 * (flops["activations"] + flops["loss head"])
    tokens = settings.rows * settings.tokens * accumulation
    return Speed(
        step_s,
        tokens * settings.gpus / step_s,
        accumulation * sum(flops.values()) / (peak * step_s),
        accumulation * useful / (peak * step_s),
        max(("compute", "memory", "launches", "transfers"), key=lambda name: parts[name]),
        _note(settings, hardware),
    )


def micro_step(
    simulation: "Simulation", settings: Settings, hardware: HardwareConfig, share: float = SHARE
) -> dict[str, float]:
    """Seconds of a micro-step by what they are spent on, each as if it ran alone; the hardware's rates are known."""
    work = simulation.work
    peak, bandwidth = 1e12 * (hardware.bf16_tflops or 0), 1e9 * (hardware.bandwidth_gb_s or 0)
    moved = work.bytes["products"] + work.bytes["rest"]
    gathered = gathered_bytes(simulation, settings)
    return {
        "compute": sum(work.flops.values()) / (share * peak),
        "memory": (moved / share + work.bytes["dequantise"] / DEQUANTISE_SHARE) / bandwidth,
        "launches": work.operators * LAUNCH_S,
        "transfers": offloaded_bytes(settings) / (1e9 * HOST_GB_S),
        "gathering": gathered / (1e9 * hardware.link_gb_s) if hardware.link_gb_s else 0.0,
    }


WEIGHTS = ("quantised weights", "embeddings and head", "other weights")


def gathered_bytes(simulation: "Simulation", settings: Settings) -> int:
    """What a GPU receives in a micro-step under FSDP: the other GPUs' shares of the weights, forward and backward.

    The static count of a sharded simulation is one GPU's share.
    """
    share = sum(simulation.static[key] for key in WEIGHTS)
    return 2 * share * (settings.gpus - 1)


def offloaded_bytes(settings: Settings) -> int:
    """The kept layer inputs in bf16, to host memory and back."""
    if not settings.offload or settings.checkpointing is Checkpointing.none:
        return 0
    facts = settings.architecture
    kept = facts["num_hidden_layers"] // settings.checkpoint_every
    return int(2 * 2 * kept * settings.rows * settings.tokens * facts["hidden_size"])


def _note(settings: Settings, hardware: HardwareConfig) -> str:
    text = f"speed: a roofline at {100 * SHARE:.0f} % of the hardware's rates, calibrated on published runs"
    if not hardware.name.startswith("a100"):
        text += f" on A100; {hardware.name} has not been compared"
    if settings.gpus > 1 and hardware.link_gb_s is None:
        text += "; what FSDP sends between GPUs is counted as free, hardware.link_gb_s is not known"
    return text
