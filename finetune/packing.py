"""Rows laid end to end in one sequence, and the proof that none of them sees another."""

from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 16
"""Of each of the two rows that are laid end to end."""
MAX_LEAK = 0.05
"""Of what the first row changes where the second sees all of it. Measured: 0 with eager and sdpa, 1 in a Mamba."""


def require_isolated_rows(model: Any) -> None:
    """Raise ConfigError where a row packed behind another one is predicted otherwise when that other one changes.

    Positions that start again are what tells a model that a row begins. Attention masks of transformers follow them
    (masking_utils.find_packed_sequence_indices; flash attention cuts there itself); states that run along the
    sequence (Mamba, short convolutions) and masks of a model's own (ALiBi) do not.
    """
    if leak(model) > MAX_LEAK:
        attention = model.config._attn_implementation.removesuffix("_fused")  # the user's name of ours
        raise ConfigError(
            f"train.packing=true, but in a {type(model).__name__} with attention {attention} "
            "packed rows see the rows before them; set train.packing=false, or model.attention=sdpa"
        )


def leak(model: Any) -> float:
    """How much a packed row's logits change with the row before it, as a share of what they do if it sees all of it."""
    import torch

    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(model.config.get_text_config().vocab_size, (3, PROBE_TOKENS), generator=draw)

    def change(positions: "torch.Tensor") -> float:
        difference = _logits(model, rows[0], rows[2], positions) - _logits(model, rows[1], rows[2], positions)
        return difference.abs().mean().item()

    packed = change(torch.arange(PROBE_TOKENS).repeat(2))
    return packed and packed / (change(torch.arange(2 * PROBE_TOKENS)) or packed)


def _logits(
    model: Any, before: "torch.Tensor", row: "torch.Tensor", positions: "torch.Tensor"
) -> "torch.Tensor":
    """Of `row` behind `before`: [tokens, vocabulary] in fp32."""
    import torch

    place = model.device
    with torch.no_grad():
        # with a cache transformers builds no mask from positions and mixes the rows
        out = model(
            input_ids=torch.cat([before, row])[None].to(place),
            position_ids=positions[None].to(place),
            use_cache=False,
        )
    logits: torch.Tensor = out.logits[0, len(before) :].float()
    return logits
