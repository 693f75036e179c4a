"""What could be run instead, in words and tables: what a search tried, what would save memory."""

from collections.abc import Mapping
from typing import Any

from finetune.plan.tables import Plan, Section, filled, gib, short, unit

SHOWN_CANDIDATES = 12


def found(plan: Plan) -> str:
    """What the search found, beside the configured settings; empty without a search."""
    tried = plan["candidates"]
    if not tried:
        return ""
    best = next((item for item in tried if item["chosen"]), None)
    searched = f"Searched {len(tried)} settings that take the same optimizer steps:"
    if best is None:
        return f"{searched} none of them fits with room to spare."
    if not plan["overrides"]:
        return f"{searched} the configured ones are the fastest that fit."
    how = f"micro-batch {best['micro_batch']}, checkpointing {checkpointing(best)}"
    how += ", packed" if best["packing"] else ""
    speed = "" if best["tokens_per_s"] is None else f", {best['tokens_per_s']:,.0f} tokens/s"
    return f"{searched} best is {how}, with {short(best['device_gib'])} GiB{speed}."


def candidates(plan: Plan) -> Section:
    """What the search tried, in the plan's order, which is best first."""
    tried = plan["candidates"]
    first = tried[:SHOWN_CANDIDATES]
    rows = [
        (
            f"{item['micro_batch']} × {item['accumulation']}",
            checkpointing(item),
            "yes" if item["packing"] else "no",
            unit(gib, item["device_gib"], ""),
            unit("{:,.0f}".format, item["tokens_per_s"], ""),
            ", ".join([item["verdict"], *(key for key in ("chosen", "configured") if item[key])]),
        )
        for item in [*first, *(item for item in tried[SHOWN_CANDIDATES:] if item["configured"])]
    ]
    head = ("batch × steps", "checkpointing", "packed", "device GiB", "tokens/s", "verdict")
    source = f"predicted, the first {len(first)} of {len(tried)}" if len(first) < len(tried) else "predicted"
    return filled(Section("What the search tried", source, "<<<>><", rows, head))


def levers(plan: Plan) -> Section:
    """What would make it fit, cheapest first, each on top of those before it."""
    rows = [
        (
            item["change"],
            unit(gib, item["saves_gib"], ""),
            unit("{:,.0f}".format, item["tokens_per_s"], ""),
            item["verdict"],
        )
        for item in plan["levers"]
    ]
    head = ("change", "saves GiB", "tokens/s", "then")
    source = "predicted, cheapest first, each on top of those before it"
    return filled(Section("What would save memory", source, "<>><", rows, head))


def command(plan: Plan) -> str:
    """How to train with what the search found, where that differs from the config."""
    if not plan["overrides"]:
        return ""
    return f'make train CONF={plan["name"]} ARGS="{" ".join(plan["overrides"])}"'


def checkpointing(chosen: Mapping[str, Any]) -> str:
    """`full`, `full, every 4 layers`, `none, offloaded`."""
    every = chosen["checkpoint_every"]
    parts = [chosen["checkpointing"], f"every {every} layers" if (every or 1) > 1 else ""]
    return ", ".join(part for part in (*parts, "offloaded" if chosen["offload_activations"] else "") if part)
