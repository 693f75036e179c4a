"""Parts of a training step with fewer passes over memory than the libraries make: same formulas, no less exact.

Everything else of the step stays the libraries', and so does each part where it does not know the case.
"""

from typing import Any

from finetune.config.plan import Device
from finetune.fused.attention import use_fused_attention
from finetune.fused.lora import fuse_lora
from finetune.fused.norm import fuse_norms


def fuse_step(network: Any, device: Device) -> None:
    """Let a network with its adapter compute here what the device gains by."""
    fuse_lora(network)
    if device is Device.cpu:  # a GPU's passes are fast, and its libraries have kernels of their own
        fuse_norms(network)
        use_fused_attention(network.get_base_model())
