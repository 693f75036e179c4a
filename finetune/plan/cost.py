"""What the run costs, and what serving the merged model takes: only where the user has set a price."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finetune.architecture import config_of, parameter_count
from finetune.config import RunConfig
from finetune.config.plan import Device, HardwareConfig, PlanConfig
from finetune.plan.device import memory_limit

GIB = 2**30
BF16 = 2
UTILISATION = 0.92
"""Share of a GPU's memory that vLLM takes (vllm/config/cache.py: 0.92 in 0.25 and 0.30, 0.9 before)."""
MONTH_H = 730
MOST_GPUS = 64


def costs(run: RunConfig, hours: float | None) -> dict[str, Any]:
    """`energy_kwh` and `cost` of training for so many hours; None for what has no hours, price or power.

    The energy is that of the devices at their TDP: an upper bound for them; host and cooling come on top.
    """
    plan, power_w = run.plan, run.hardware.tdp_w
    gpu_hours = None if hours is None else hours * plan.gpus
    energy = None if gpu_hours is None or power_w is None else gpu_hours * power_w / 1000
    return {
        "energy_kwh": energy,
        "cost": {
            "training": _priced(gpu_hours, plan.price_per_gpu_hour),
            "energy": _priced(energy, plan.price_per_kwh),
        },
    }


def _priced(amount: float | None, price: float | None) -> float | None:
    return None if amount is None or price is None else amount * price


@dataclass(frozen=True)
class Serving:
    """The merged bf16 model on this kind of device, at full conversations of `context` tokens."""

    weights_gib: float
    kv_bytes_per_token: int
    """Of a whole conversation's key-value cache, shared out to its tokens: windows hold less than the rest."""
    context: int
    gpus: int | None = None
    """The fewest that hold the weights and one conversation, the attention heads shared out evenly as vLLM asks.

    None: no number up to 64 does, or it is no GPU.
    """
    conversations: int | None = None
    """Side by side; an upper bound, since activations and CUDA graphs take their part first."""
    decode_tokens_per_s: float | None = None
    """Upper bound: each token of all conversations reads the weights once and its cache, at the peak bandwidth."""
    cost_per_million_tokens: float | None = None
    """Lower bound: the price of the GPUs at the upper bound of their tokens."""
    break_even_tokens: float | None = None
    """Generated tokens a month from which GPUs rented all month cost less than the API; None: no price, or never."""


def serving(run: RunConfig, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The memory, speed and break-even of serving the merged model, as the fields of Serving."""
    context = run.plan.serve_context
    weights, cache = BF16 * parameter_count(architecture), cache_bytes(architecture, context)
    found = Serving(weights / GIB, -(-cache // context), context)
    fitting = (
        None if run.hardware.device is Device.cpu else _fewest(run.hardware, architecture, weights, cache)
    )
    if fitting is None:
        return asdict(found)
    gpus, conversations, read = fitting
    rate = None
    if run.hardware.bandwidth_gb_s is not None:
        rate = conversations / (read / (1e9 * run.hardware.bandwidth_gb_s))
    facts = {"gpus": gpus, "conversations": conversations, "decode_tokens_per_s": rate}
    return {**asdict(found), **facts, **_compared(run.plan, gpus, rate)}


def _fewest(
    hardware: HardwareConfig, architecture: Mapping[str, Any], weights: int, cache: int
) -> tuple[int, int, float] | None:
    """The number of GPUs, the conversations beside the weights, and the bytes that each GPU reads a token."""
    config = config_of(architecture)
    room = UTILISATION * memory_limit(hardware)
    for gpus in range(1, MOST_GPUS + 1):
        share, own = weights / gpus, cache / min(gpus, _cache_shares(config))
        if config.num_attention_heads % gpus == 0 and share + own <= room:
            conversations = int((room - share) // own)
            return gpus, conversations, share + conversations * own
    return None


def _compared(plan: PlanConfig, gpus: int, rate: float | None) -> dict[str, float | None]:
    """Renting all month against an API's price for a million tokens."""
    hourly, price = _priced(gpus, plan.price_per_gpu_hour), plan.api_price_per_million_tokens
    lowest = None if hourly is None or rate is None else hourly / (3600 * rate) * 1e6
    even = None
    if hourly is not None and price and (lowest is None or lowest < price):
        even = MONTH_H * hourly / price * 1e6
    return {"cost_per_million_tokens": lowest, "break_even_tokens": even}


def cache_bytes(architecture: Mapping[str, Any], tokens: int) -> int:
    """The bf16 key-value cache of one conversation of so many tokens.

    A layer keeps keys and values of its key-value heads, a sliding one of its window alone; multi-head latent attention
    one compressed vector and one rotary key (DeepSeek-V2, arXiv 2405.04434).
    """
    config = config_of(architecture)
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        values = latent + config.qk_rope_head_dim
    else:
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        values = 2 * key_value_heads(config) * width
    return sum(BF16 * values * min(tokens, window or tokens) for window in _windows(config))


def key_value_heads(config: Any) -> int:
    """Heads of keys and values in a layer; Falcon's older form shares one."""
    if config.model_type == "falcon" and not config.new_decoder_architecture:
        return 1 if config.multi_query else int(config.num_attention_heads)
    named = getattr(config, "num_kv_heads", None) or getattr(config, "num_key_value_heads", None)
    return int(named or config.num_attention_heads)


def _cache_shares(config: Any) -> int:
    """Over how many GPUs a conversation's cache can be shared out: latent vectors stand whole on each."""
    return 1 if getattr(config, "kv_lora_rank", None) else key_value_heads(config)


def _windows(config: Any) -> list[int | None]:
    """The window of each layer; None: it sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    return [window] * config.num_hidden_layers
