"""What training took, what 1,000 answers take, and from which monthly volume on a server of one's own is cheaper.

At the user's prices alone: what lacks one is None and `missing` names the setting.

* training = seconds of training / 3600 * price_per_hour
* 1,000 items on one's own machine = 1000 * s / 3600 * price_per_hour, s the measured seconds an item of the adapter,
  in evaluation's batches with the machine always busy: a lower bound for a server that waits
* 1,000 items by API = 1000 * (input tokens * api_input_per_million + output tokens * api_output_per_million) / 10^6,
  tokens being the means an item, as the adapter's own tokenizer counts them
* a month of one server = server_hours_per_month * price_per_hour, busy or not; it can answer
  3600 * server_hours_per_month / s items
* the server is cheaper from (month of one server) / (API's price of an item) items a month on; above what it can
  answer there is no such volume, however many servers: each costs more than the API for what it answers
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from finetune.artifacts import Artifact
from finetune.config.eval import CostsConfig
from finetune.config.plan import Device, HardwareConfig
from finetune.generate import Answer
from finetune.rows import json_lines

HOUR_S = 3600
ITEMS = 1000
CHEAPER_FROM, NEVER = "cheaper from", "never cheaper"


@dataclass(frozen=True)
class Measured:
    """What one arm took to answer: its items, their seconds (None: not measured), and tokens an item."""

    items: int
    seconds: float | None
    input_tokens: float
    output_tokens: float


def measured(answers: Sequence[Answer], prompts: Sequence[Sequence[int]]) -> Measured:
    """The sums over an arm's answers and the means over its prompts."""
    return Measured(
        len(answers),
        seconds_of(answers),
        mean(map(len, prompts)),
        mean(len(item.ids) for item in answers),
    )


def seconds_of(answers: Sequence[Answer]) -> float | None:
    """Seconds in which an arm answered; None where an answer's time was not measured."""
    known = [item.seconds for item in answers if item.seconds is not None]
    return sum(known) if known and len(known) == len(answers) else None


def training_seconds(adapter: Artifact) -> float:
    """Seconds of all sessions of the run: the log counts on after a kill, the manifest has the last session alone."""
    path = adapter.path("log.jsonl")
    rows = json_lines(path) if path.is_file() else ()
    logged = [float(row.get("seconds") or 0.0) for _, row in rows]
    return max([adapter.manifest.seconds, *logged])


def cost(
    adapter: Artifact,
    arms: Mapping[str, float | None],
    own: Measured,
    hardware: HardwareConfig,
    costs: CostsConfig,
) -> dict[str, Any]:
    """The `cost` section of report.json; `arms` holds each arm's seconds, `own` what the adapter took."""
    trained_s = training_seconds(adapter)
    return {
        "currency": costs.currency,
        "hardware": hardware.name,
        "is_cpu": hardware.device is Device.cpu,
        "price_per_hour": costs.price_per_hour,
        "seconds": dict(arms),
        "training": {
            "hardware": adapter.manifest.facts.get("hardware"),
            "seconds": trained_s,
            "cost": _hours(trained_s, costs.price_per_hour),
        },
        **_serving(own, costs),
        "missing": list(_missing(own, costs)),
    }


def _serving(own: Measured, costs: CostsConfig) -> dict[str, Any]:
    """What items cost on one's own machine and by API, and where the two meet."""
    each_s = None if own.seconds is None else own.seconds / own.items
    by_api = _api(own, costs)
    return {
        "own": {
            "items": own.items,
            "seconds_per_1000": None if each_s is None else ITEMS * each_s,
            "cost_per_1000": None if each_s is None else _hours(ITEMS * each_s, costs.price_per_hour),
        },
        "api": {
            "input_tokens": own.input_tokens,
            "output_tokens": own.output_tokens,
            "cost_per_1000": by_api,
        },
        "break_even": _break_even(each_s, by_api, costs),
    }


def _break_even(each_s: float | None, by_api: float | None, costs: CostsConfig) -> dict[str, Any] | None:
    month = _hours(HOUR_S * costs.server_hours_per_month, costs.price_per_hour)
    if month is None or not by_api or not each_s:
        return None
    capacity = HOUR_S * costs.server_hours_per_month / each_s
    items = ITEMS * month / by_api
    return {
        "verdict": CHEAPER_FROM if items <= capacity else NEVER,
        "items_per_month": items if items <= capacity else None,
        "server_month": month,
        "capacity_per_month": capacity,
    }


def _api(own: Measured, costs: CostsConfig) -> float | None:
    """The API's price of 1,000 items."""
    prices = (costs.api_input_per_million, costs.api_output_per_million)
    if prices[0] is None or prices[1] is None:
        return None
    return ITEMS * (own.input_tokens * prices[0] + own.output_tokens * prices[1]) / 1e6


def _missing(own: Measured, costs: CostsConfig) -> list[str]:
    """The settings and measurements without which something above is None."""
    needed = {
        "eval.costs.price_per_hour (or plan.price_per_gpu_hour)": costs.price_per_hour,
        "eval.costs.api_input_per_million (or plan.api_price_per_million_tokens)": costs.api_input_per_million,
        "eval.costs.api_output_per_million (or plan.api_price_per_million_tokens)": costs.api_output_per_million,
        "a measured time of the adapter's answers": own.seconds,
    }
    return [name for name, value in needed.items() if value is None]


def _hours(seconds: float, price: float | None) -> float | None:
    return None if price is None else seconds / HOUR_S * price
