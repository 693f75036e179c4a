"""The arithmetic that a training step needs, whatever the machine makes of it: nothing recomputed, no padding."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

FROZEN, TRAINED = 4, 6
"""FLOPs of a weight and token: two forward, two for its input's gradient, and two for its own where it is trained."""
FORWARD_AND_BACKWARD = 3
"""The backward pass of attention has four products beside the forward pass's two."""
STACKED = 3
"""Dimensions of a parameter that holds the experts of a layer one upon the other."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of a row by what they grow with."""

    per_token: float
    per_trained_token: float
    """Of the output head, which scores trained positions alone."""
    per_pair: Mapping[int | None, float] = field(default_factory=dict)
    """Of a position and one that it attends to, over all layers, by their window; None: no window."""

    def row(self, tokens: int, trained: int) -> float:
        """FLOPs of a row of so many tokens, some of them trained, forward and backward."""
        attention = sum(flops * pairs(tokens, window) for window, flops in self.per_pair.items())
        return self.per_token * tokens + self.per_trained_token * trained + attention


def pairs(tokens: int, window: int | None) -> int:
    """Pairs of positions in causal attention, each with itself too: at most `window` back."""
    reach = tokens if window is None else min(tokens, window)
    return reach * (reach + 1) // 2 + (tokens - reach) * reach


def needed_flops(network: Any) -> Flops:
    """What each token of a row costs this model with its adapter: from the shapes of its layers.

    The head is frozen: TRL refuses an adapter on it. A router of experts, a few weights, is not counted.
    """
    head = network.get_output_embeddings()
    per_token = 0.0
    for module in network.modules():
        if isinstance(module, nn.Linear) and module is not head:
            trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            per_token += (TRAINED if trained else FROZEN) * module.in_features * module.out_features
    per_token += FROZEN * _expert_weights(network)
    weights = head.in_features * head.out_features
    return Flops(per_token, FROZEN * weights, _attention(_text_config(network)))


def _expert_weights(network: Any) -> float:
    """Of the stacked experts, those that a token passes through."""
    config = _text_config(network)
    total = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() == STACKED)
    count = getattr(config, "num_local_experts", None) or getattr(config, "n_routed_experts", None)
    return total * config.num_experts_per_tok / count if total and count else 0.0


def _text_config(network: Any) -> Any:
    return network.config.get_text_config()


def _attention(config: Any) -> dict[int | None, float]:
    """FLOPs of a pair in all layers of one window: scores and values of every head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key = getattr(config, "qk_nope_head_dim", None)
    keys = key + config.qk_rope_head_dim if key else size  # DeepSeek's latent attention
    values = getattr(config, "v_head_dim", None) or size
    flops = FORWARD_AND_BACKWARD * 2 * config.num_attention_heads * (keys + values)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    layers = Counter(window if kind == "sliding_attention" else None for kind in kinds)
    return {window: float(count * flops) for window, count in layers.items()}
