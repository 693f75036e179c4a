"""plan.json: what is predicted of a run, as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune.architecture import parameter_count
from finetune.config import RunConfig
from finetune.licences import Licence
from finetune.plan.cost import costs, serving
from finetune.plan.prediction import Planner, Prediction
from finetune.plan.search import best, candidates, evaluate, levers, mode_of, overrides
from finetune.plan.simulate import loading_bytes, simulate_evaluation

GIB = 2**30
NOTES = (
    "memory: the step simulated operator by operator, on tensors without content",
    "device memory: the simulated peak plus a stated model of context and fragmentation (finetune/plan/device.py)",
)


def plan_of(run: RunConfig, found: Prediction, licences: Sequence[Licence]) -> dict[str, Any]:
    """The plan of one configuration; a search adds to it and changes nothing of it."""
    peak, device = found.simulation.peak, found.device
    speed, steps = found.speed, found.work.steps
    hours = speed.run_hours(steps) if speed and steps else None
    return {
        "name": run.name,
        "model": _model(run, found),
        "hardware": {"name": run.hardware.name, "device": run.hardware.device.name}
        | {"memory_gib": device.limit / GIB, "gpus": run.plan.gpus},
        "settings": _settings(run, found),
        "verdict": device.verdict.value,
        "peak_allocated_gib": device.allocated / GIB,
        "peak_phase": peak.phase,
        "static_gib": sum(found.simulation.static.values()) / GIB,
        "loading_gib": loading_bytes(found.settings) / GIB,
        "evaluation_gib": evaluation_bytes(run, found) / GIB,
        "device_gib": {key: value / GIB for key, value in device.parts().items()},
        "breakdown": {key: value / GIB for key, value in peak.categories.items() if value},
        "step_s": speed.step_s if speed else None,
        "tokens_per_s": found.tokens_per_s,
        "bound": speed.bound if speed else None,
        "utilisation": speed.utilisation if speed else None,
        "run_hours": hours,
        "steps": steps,
        "tokens": found.work.tokens,
        **costs(run, hours),
        "serving": serving(run, found.settings.architecture),
        "licence": [_licence(item, run) for item in licences],
        "candidates": [],
        "levers": [],
        "overrides": [],
        "warnings": [],
        "notes": [*NOTES, *([speed.note] if speed else []), *([found.work.note] if found.work.note else [])],
    }


def evaluation_bytes(run: RunConfig, found: Prediction) -> int:
    """The peak of one evaluation batch of rows as long as the longest."""
    batch, new = run.eval.batch_rows, run.eval.max_new_tokens
    return simulate_evaluation(found.settings, batch, found.work.longest, new)


def warnings_of(plan: Mapping[str, Any], run: RunConfig) -> list[str]:
    """Where the evaluation's batch needs more memory than there is, though training fits; what stays in bf16."""
    limit, needed, base = plan["device_gib"]["limit"], plan["evaluation_gib"], plan["loading_gib"]
    if needed <= limit:
        return list(_in_bf16(plan))
    rows = max(1, int(run.eval.batch_rows * (limit - base) / (needed - base)))
    batch = (
        f"`make eval` would take {needed:.0f} GiB of {limit:.0f} for a batch of {run.eval.batch_rows} rows"
    )
    advice = f"{batch} of {plan['settings']['longest_row']:,} tokens; set eval.batch_rows={rows} or less"
    return [advice, *_in_bf16(plan)]


def _in_bf16(plan: Mapping[str, Any]) -> Iterator[str]:
    """What bitsandbytes and transformers leave in bf16 of a base that is to be quantised."""
    held, name = plan["breakdown"], plan["model"]["name"]
    if plan["model"]["quantised"] and "quantised weights" not in held:
        yield (
            f"no layer of {name} is held in 4 bits: transformers quantises nn.Linear alone and this model has a class "
            "of its own, so it is planned in bf16, as it would be loaded"
        )
    elif plan["model"]["quantised"] and "experts (bf16)" in held:
        yield (
            f"the experts of {name} stay in bf16, {held['experts (bf16)']:,.1f} GiB: they are three-dimensional "
            "parameters, which bitsandbytes does not quantise; adapters go to its attention alone"
        )


def _model(run: RunConfig, found: Prediction) -> dict[str, Any]:
    quantised = found.settings.quantised
    return {"name": run.model.name, "repo": run.model.base.repo, "quantised": quantised} | {
        "parameters": parameter_count(found.settings.architecture),
        "trainable": found.simulation.trained,
    }


def _settings(run: RunConfig, found: Prediction) -> dict[str, Any]:
    train, rows = run.train, {"max_tokens": run.train.max_tokens, "longest_row": found.work.longest}
    return {
        "micro_batch": train.micro_batch,
        "global_batch": train.global_batch,
        **rows,
        "packing": train.packing,
        "rank": train.lora.rank,
        "optimizer": found.settings.optimizer.name,
        "attention": found.settings.attention.name,
        **_mode(run),
    }


def _mode(run: RunConfig) -> dict[str, Any]:
    return {**mode_of(run), "checkpointing": run.train.checkpointing.name}


def _licence(licence: Licence, run: RunConfig) -> dict[str, Any]:
    facts = {"title": licence.title, "commercial": licence.commercial, "limit": licence.max_monthly_users}
    applies = "base" if licence.id == run.model.licence else "data"
    return facts | {"applies_to": applies, "display": licence.display, "name_prefix": licence.name_prefix}


def add_search(plan: dict[str, Any], run: RunConfig, planner: Planner) -> bool:
    """Fill `candidates`, and `overrides` where other settings are better than these; whether anything fits."""
    found = evaluate(planner, candidates(run), "candidates")
    chosen = best(found)
    rows = [
        _candidate(item, result) | {"chosen": item is chosen, "configured": not overrides(run, item)}
        for item, result in found
    ]
    plan["candidates"] = sorted(
        rows, key=lambda row: (row["verdict"] != "fits", -(row["tokens_per_s"] or 0.0))
    )
    plan["overrides"] = [] if chosen is None else overrides(run, chosen)
    return chosen is not None


def _candidate(run: RunConfig, found: Prediction) -> dict[str, Any]:
    return {
        "micro_batch": run.train.micro_batch,
        "accumulation": run.train.global_batch // run.train.micro_batch,
        **_mode(run),
        "packing": run.train.packing,
        "peak_allocated_gib": found.device.allocated / GIB,
        "device_gib": found.device.total / GIB,
        "tokens_per_s": found.tokens_per_s,
        "verdict": found.device.verdict.value,
    }


def add_levers(plan: dict[str, Any], run: RunConfig, planner: Planner) -> None:
    """Fill `levers`: each on top of those before it, until the run fits."""
    before, total = run, plan["device_gib"]["total"]
    for change in levers(run):
        after = change.on(before)
        found = planner(after)
        saved = total - found.device.total / GIB
        if saved <= 0:
            continue
        plan["levers"].append(
            {"change": str(change), "saves_gib": saved, "verdict": found.device.verdict.value}
            | {"tokens_per_s": found.tokens_per_s}
        )
        before, total = after, found.device.total / GIB
        if found.fits:
            return


def timeline_of(found: Prediction) -> list[Mapping[str, Any]]:
    """The step's samples for the plot."""
    return [asdict(sample) for sample in found.simulation.timeline]
