"""A step on several GPUs: FSDP's FULL_SHARD, each device a share of the weights."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.plan.memory import Sample
from finetune.plan.settings import Settings

if TYPE_CHECKING:
    from finetune.plan.simulate import Simulation

SHARDED = (
    "quantised weights",
    "experts (bf16)",
    "embeddings and head",
    "other weights",
    "LoRA weights",
    "gradients",
    "optimizer",
)


def sharded(simulation: "Simulation", settings: Settings) -> "Simulation":
    """The same step on each of `settings.gpus` devices: a share of the weights, and the whole of what is being used.

    The root unit (embeddings, head, last norm) stays gathered from the forward to the backward pass, a layer beside
    it; scales of quantised weights are no parameters and stay whole on every GPU.
    """
    share, layers = settings.gpus, settings.architecture["num_hidden_layers"]
    if share == 1:
        return simulation
    in_layers = ("quantised weights", "experts (bf16)", "other weights")
    layer = sum(simulation.static[key] for key in in_layers) // layers
    gathered = simulation.static["embeddings and head"] + layer

    def shard(categories: Mapping[str, int], extra: int) -> Counter[str]:
        parts = {key: value // share if key in SHARDED else value for key, value in categories.items()}
        return Counter({**parts, "gathered by FSDP": extra})

    simulation.peaks = {
        phase: Sample(phase, shard(sample.categories, gathered)) for phase, sample in simulation.peaks.items()
    }
    simulation.timeline = [
        Sample(sample.phase, shard(sample.categories, gathered)) for sample in simulation.timeline
    ]
    simulation.static = +shard(simulation.static, 0)
    simulation.paged //= share
    return simulation
