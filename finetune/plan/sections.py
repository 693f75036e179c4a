"""A plan in words and tables, the same for the terminal and the page. Nothing is computed here but shares and rests."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.pages import count, duration
from finetune.plan.choices import candidates, checkpointing, levers
from finetune.plan.tables import Plan, Row, Section, gib, short, unit

HELD = {
    "allocated": "allocated by PyTorch",
    "context": "CUDA context",
    "workspace": "library workspaces",
    "fragmentation": "fragmentation of the allocator",
    "paged": "paged optimizer states",
}
"""What a device holds, in words, by the keys of `device_gib`."""
HELD_BY_CPU = "process with its libraries"


def sections(plan: Plan) -> dict[str, Section]:
    """Every table of the plan that has rows, by name, in reading order."""
    found = {
        "breakdown": breakdown(plan),
        "device": device(plan),
        "moments": moments(plan),
        "time": time_and_cost(plan),
        "serving": serving(plan),
        "licence": licence(plan),
        "levers": levers(plan),
        "candidates": candidates(plan),
        "settings": settings(plan),
        "notes": Section("Where the numbers come from", "", "<", [(note,) for note in plan["notes"]]),
    }
    return {name: section for name, section in found.items() if section.rows}


def headline(plan: Plan) -> str:
    """How much of the device the step takes."""
    hardware, limit, total = machine(plan), plan["device_gib"]["limit"], on_device(plan)
    step = f"A step is predicted to hold {short(total)}"
    if limit is None:
        return f"{step} GiB; how much {hardware} has is not known."
    if total > limit:
        return f"{step} GiB; {hardware} has {short(limit)}, {short(total - limit)} GiB too few."
    rest = "stay free" if plan["verdict"] == "fits" else "are left, too few to promise that it fits"
    return f"{step} of the {short(limit)} GiB of {hardware}: {short(limit - total)} GiB {rest}."


def outlook(plan: Plan) -> str:
    """How fast, how long, and at what cost."""
    speed, hours, cost = plan["tokens_per_s"], plan["run_hours"], _cost(plan, "training")
    if speed is None:
        return f"Speed and cost are not predicted for {machine(plan)}."
    run = f", {duration(hours)} for the run" if hours is not None else ""
    money = f", {cost:,.2f} at your price of a GPU hour" if cost is not None else ""
    start = "Predicted, had it room" if plan["verdict"] == "does not fit" else "Predicted"
    return f"{start}: {speed:,.0f} tokens/s{run}{money}."


def facts(plan: Plan) -> list[Row]:
    """The few numbers that decide whether to rent."""
    known = [
        ("Peak on the device", unit(short, on_device(plan), "GiB")),
        ("Its limit", unit(short, plan["device_gib"]["limit"], "GiB")),
        ("Speed", unit("{:,.0f}".format, plan["tokens_per_s"], "tokens/s")),
        ("Run", unit(duration, plan["run_hours"], "")),
        ("Cost of the GPU", _gpu_cost(plan, "")),
        ("Energy", unit("{:,.1f}".format, plan["energy_kwh"], "kWh")),
    ]
    return _known(known)


def breakdown(plan: Plan) -> Section:
    """What PyTorch's tensors are at the peak, largest first."""
    peak = plan["device_gib"]["allocated"]
    ordered = sorted(plan["breakdown"].items(), key=lambda item: -(item[1] or 0))
    rows = [(name, gib(value), f"{100 * value / peak:.1f} %") for name, value in ordered if value]
    foot = [("allocated by PyTorch", gib(peak), "")]
    source = "simulated step" + (f", its peak in: {plan['peak_phase']}" if plan["peak_phase"] else "")
    return Section("Memory at the peak", source, "<>>", rows, ("held as", "GiB", "share"), foot)


def device(plan: Plan) -> Section:
    """From PyTorch's count to what the device must hold."""
    parts = plan["device_gib"]
    named = HELD if plan["hardware"]["device"] == "cuda" else HELD | {"context": HELD_BY_CPU}
    held = {key: value for key, value in parts.items() if key not in ("total", "limit") and value}
    rows = [(named.get(key, key), gib(value)) for key, value in held.items()]
    total, limit = on_device(plan), parts["limit"]
    foot = [("on the device", gib(total))]
    if limit is not None:
        word = "free" if total <= limit else "too much"
        foot += [(f"limit of {plan['hardware']['name']}", gib(limit)), (word, gib(abs(limit - total)))]
    return Section("Memory of the device", "stated model", "<>", rows, ("held as", "GiB"), foot)


def moments(plan: Plan) -> Section:
    """What is allocated outside of the step's peak."""
    known = {
        "before the first step": plan["static_gib"],
        "highest while loading": plan["loading_gib"],
        "highest in evaluation": plan["evaluation_gib"],
    }
    rows = [(label, gib(value)) for label, value in known.items() if value is not None]
    return Section("At other moments", "simulated", "<>", rows, ("allocated by PyTorch", "GiB"))


def time_and_cost(plan: Plan) -> Section:
    """Speed, length, energy and cost of the run; what is not known is left out."""
    step, hours = plan["step_s"], plan["run_hours"]
    size = [f"{count(plan[key])} {key}" for key in ("steps", "tokens") if plan[key] is not None]
    rows = [
        ("speed", unit("{:,.0f}".format, plan["tokens_per_s"], "tokens/s")),
        ("optimizer step", "" if step is None else ", ".join([f"{short(step)} s", *_bound(plan)])),
        ("run", "" if hours is None else ", ".join([duration(hours), *size])),
        ("energy", unit("{:,.1f}".format, plan["energy_kwh"], "kWh")),
        ("cost of the GPU", _gpu_cost(plan, "at plan.price_per_gpu_hour")),
        ("cost of the energy", unit("{:,.2f}".format, _cost(plan, "energy"), "at plan.price_per_kwh")),
    ]
    return Section("Time and cost", "predicted, roofline calibrated on published runs", "<<", _known(rows))


def serving(plan: Plan) -> Section:
    """What the merged model takes to serve."""
    found = plan["serving"] or {}
    cache = found.get("kv_bytes_per_token")
    context = found.get("context")
    rows = [
        ("merged weights", unit(gib, found.get("weights_gib"), "GiB")),
        ("devices", unit(str, found.get("gpus"), f"× {plan['hardware']['name']}")),
        ("key-value cache", f"{cache / 2**20:.2f} MiB a token" if cache else ""),
        (
            "one conversation",
            f"{cache * context / 2**30:.2f} GiB at {context:,} tokens" if cache and context else "",
        ),
        ("conversations at once, at most", unit("{:,}".format, found.get("conversations"), "")),
        ("decoding, at most", unit("{:,.0f}".format, found.get("decode_tokens_per_s"), "tokens/s")),
        ("a million tokens, at least", unit("{:,.2f}".format, found.get("cost_per_million_tokens"), "")),
        ("cheaper than the API above", unit(count, found.get("break_even_tokens"), "tokens a month")),
    ]
    return Section("Serving the merged model", "predicted", "<<", _known(rows))


def settings(plan: Plan) -> Section:
    """The run that was simulated."""
    model, chosen = plan["model"], plan["settings"]
    weights = "4-bit weights" if "quantised weights" in plan["breakdown"] else "weights as they are"
    size = f"{count(model['parameters'])} parameters, {count(model['trainable'])} trained, {weights}"
    packed = "packed" if chosen["packing"] else "not packed"
    rows = [
        ("model", model["repo"] or model["name"]),
        ("size", size),
        ("batch", f"micro-batch {chosen['micro_batch']}, {chosen['global_batch']} rows a step"),
        ("rows", f"longest {chosen['longest_row']:,} of {chosen['max_tokens']:,} tokens, {packed}"),
        ("checkpointing", checkpointing(chosen)),
        ("adapter", f"rank {chosen['rank']}"),
        ("optimizer", chosen["optimizer"]),
        ("attention", chosen["attention"]),
    ]
    return Section("What was simulated", "", "<<", _known(rows))


def licence(plan: Plan) -> Section:
    """What each licence allows and asks, a line each."""
    rows = [(", ".join(_terms(item)),) for item in plan["licence"]]
    return Section("Licence", "not legal advice", "<", rows)


def machine(plan: Plan) -> str:
    """The device, with how many there are where it is more than one."""
    gpus, name = plan["hardware"]["gpus"], plan["hardware"]["name"]
    return f"each of {gpus} × {name}" if gpus > 1 else str(name)


def on_device(plan: Plan) -> float:
    """GiB of one device at the peak."""
    return float(plan["device_gib"]["total"] or plan["peak_allocated_gib"])


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row[1]]


def _cost(plan: Plan, what: str) -> float | None:
    return (plan["cost"] or {}).get(what)


def _gpu_cost(plan: Plan, word: str) -> str:
    """What the run's GPU hours cost; says so where only the price is missing."""
    unpriced = "" if plan["run_hours"] is None else "no price set"
    return unit("{:,.2f}".format, _cost(plan, "training"), word) or unpriced


def _bound(plan: Plan) -> list[str]:
    share = plan["utilisation"]
    return [
        *([f"limited by {plan['bound']}"] if plan["bound"] else []),
        *([f"{100 * share:.0f} % of the peak FLOP/s"] if share is not None else []),
    ]


def _terms(asked: Mapping[str, Any]) -> list[str]:
    limit = asked["limit"]
    return [
        f"{asked['title']} ({asked['applies_to']}): commercial use {'yes' if asked['commercial'] else 'no'}",
        f"up to {limit:,} monthly users" if limit else "no limit of users",
        *([f'shows "{asked["display"]}"'] if asked["display"] else []),
        *([f"name begins with {asked['name_prefix']}"] if asked["name_prefix"] else []),
    ]
