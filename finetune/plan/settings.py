"""What decides the memory and time of a training step, free of Hydra, files and devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from finetune.config.plan import Device
from finetune.config.schema import Checkpointing, Optimizer


class Head(Enum):
    """How the logits and their loss are computed."""

    chunked = "chunked"
    """TRL's: trained positions only, in tiles, recomputed in the backward pass. What `train` uses."""
    fused = "fused"
    """Liger's fused linear cross-entropy: chunks, with the gradient computed in the forward pass."""
    in_place = "in_place"
    """As materialised, but the gradient overwrites the shifted copy (fms' and Unsloth's Triton kernel)."""
    materialised = "materialised"
    """Logits of all positions, upcast to fp32 and shifted by a copy: transformers before 4.45."""
    plain = "plain"
    """Logits of all positions in bf16, log-probabilities beside them: LitGPT."""


class AttentionKernel(Enum):
    flash = "flash"
    """No score is stored: flash-attn 2, or torch's own for causal rows without padding."""
    sdpa = "sdpa"
    """torch's scaled_dot_product_attention as it runs on the CPU here."""
    eager = "eager"


class Upcast(Enum):
    """Which frozen parameters are held in fp32."""

    none = "none"
    norms = "norms"
    """peft's prepare_model_for_kbit_training followed by TRL's cast of embeddings and head back to bf16 (TRL < 0.24):
    from the first norm on the residual stream is fp32."""
    all = "all"
    """peft's prepare_model_for_kbit_training alone: norms, embeddings and head."""


@dataclass(frozen=True)
class Settings:
    """One training step. Counts are per GPU; `tokens` is the length of each row of the micro-batch."""

    architecture: Mapping[str, Any] = field(hash=False)
    rows: int
    tokens: int
    trained: int | None = None
    """Answer tokens of the whole micro-batch. None: all."""
    padded: bool = False
    """The rows of a micro-batch differ in length: attention takes a mask of each."""
    packed: bool = False
    """The rows stand end to end in one; attention does not cross them."""
    accumulates: bool = False
    """Gradients of an earlier micro-batch are there already."""
    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    lora_bytes: int = 4
    """Bytes of a LoRA weight: 4 (fp32), or 2 (bf16)."""
    layers: tuple[int, ...] | None = None
    """Numbers of the layers that are adapted. None: all."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Another rank where the end of a module's name matches. Alpha and rsLoRA change neither memory nor time."""
    dora: bool = False
    """A magnitude for each output, and the lengths of the adapted rows in every pass (finetune.dora)."""
    quantised: bool = True
    double_quantised: bool = True
    autocast: bool = True
    """bf16 autocast around the forward pass, as Trainer runs it."""
    optimizer: Optimizer = Optimizer.adamw_torch
    checkpointing: Checkpointing = Checkpointing.full
    checkpoint_every: int = 1
    offload: bool = False
    head: Head = Head.chunked
    attention: AttentionKernel = AttentionKernel.flash
    upcast: Upcast = Upcast.none
    linear_experts: bool = False
    """Experts as linear layers, which are quantised, and Falcon's own class of linear layer too: transformers before 5,
    which asks for an nn.Linear and no class made from it (integrations/bitsandbytes.py)."""
    dropout: bool = False
    """Before each adapter: a copy of its input and a mask."""
    fused_ops: bool = False
    """RMSNorm as one kernel that keeps its input alone (Unsloth, Liger, fms)."""
    fused: bool = False
    """LoRA, and on a CPU attention, norms and head, as `train` computes them (finetune.fused, finetune.loss)."""
    fused_qkv: bool = False
    """Queries, keys and values are one product, whose whole output the values keep until the backward pass (LitGPT)."""
    reentrant: bool = False
    """The older checkpointing (transformers before 5): a layer is recomputed to its very end, its output included."""
    keeps_inputs: bool = False
    """bitsandbytes before 0.45 kept the input of each quantised product although nothing needs it."""
    keeps_logits: bool = False
    """transformers from 4.46 on: the loss is a function (loss/loss_utils.py), whose caller holds the bf16 logits."""
    gpus: int = 1
    device: Device = Device.cuda
