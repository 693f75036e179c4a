"""served.json: what was seen of a server in figures, and what of it does not hold."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.serving.reference import Divergence, Reference
from eval.serving.replay import Observed, Replay
from eval.stats import WORSE

QUANTILES = {"p50_s": 0.50, "p95_s": 0.95}


@dataclass(frozen=True)
class Bar:
    """What is held against what was seen."""

    prompts: int
    margin_floor: float
    """Logits: below that, batches alone change which token is the likeliest."""


def figures(observed: Observed, reference: Reference | None, bar: Bar) -> dict[str, Any]:
    """The fields of served.json that are about one server; without a reference nothing was answered."""
    found: dict[str, Any] = {
        "version": observed.version,
        "prompts": bar.prompts,
        "prompt_ids_equal": not observed.other_prompts,
        "prompt_ids_different": len(observed.other_prompts),
        "greedy_equal": None,
        "first_divergence_margin": None,
        "margin_floor": bar.margin_floor,
        "latency": None,
        "tokens_per_s": None,
        "replays": [],
    }
    if reference is None:
        return found
    replays = [
        _replay(replay, reference, divergences, bar)
        for replay, divergences in zip(observed.replays, reference.divergences, strict=True)
    ]
    margins = [item["largest_margin"] for item in replays if item["largest_margin"] is not None]
    by_concurrency = {str(item["concurrency"]): item for item in replays}
    return found | {
        "greedy_equal": min(item["greedy_equal"] for item in replays),
        "first_divergence_margin": max(margins, default=None),
        "latency": {key: {name: item[name] for name in QUANTILES} for key, item in by_concurrency.items()},
        "tokens_per_s": {key: item["tokens_per_s"] for key, item in by_concurrency.items()},
        "replays": replays,
    }


def problems(found: Mapping[str, Any], label: str) -> Iterator[str]:
    """What does not hold of one server, one line each: value, bar, what it means."""
    if not found["prompt_ids_equal"]:
        yield (
            f"{label}: {found['prompt_ids_different']} of {found['prompts']} prompts have other token ids than in "
            "training: another chat template, date or tokenizer; serve the export's own files"
        )
    for item in found["replays"]:
        at = f"{label}, {item['concurrency']} at once"
        if item["not_stopped"]:
            yield (
                f"{at}: {item['not_stopped']} of {found['prompts']} answers do not end at the end tokens that "
                "evaluation used; serve the export's generation_config.json"
            )
        if item["above_floor"]:
            yield (
                f"{at}: {item['above_floor']} of {found['prompts']} answers first differ from transformers' where it "
                f"is sure, by up to {_shown(item['largest_margin'])} logits (noise floor {found['margin_floor']:.3f}): "
                "other weights, settings or precision than the export's"
            )


def delta_problems(delta: Mapping[str, Any], label: str) -> Iterator[str]:
    """A loss against the adapter as evaluated that is certain."""
    for item in delta["tasks"]:
        if item["verdict"] == WORSE:
            yield (
                f"{label}: worse than {delta['against']} as evaluated on {item['task']} {item['metric']}: "
                f"{item['delta']:+.4f} [{item['ci_low']:+.4f}, {item['ci_high']:+.4f}]"
            )


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield f"{found['engine']} {found['version'] or ''}: {_summary(found)}"
    for item in found["replays"]:
        yield (
            f"  {item['concurrency']:>2} at once: p50 {_ms(item['p50_s'])}, p95 {_ms(item['p95_s'])}, "
            f"{item['tokens_per_s']:.0f} new tokens/s; {item['greedy_equal']} answers equal"
        )
    delta = found["task_delta"]
    if delta and "task" in delta:
        yield (
            f"  {delta['task']} {delta['metric']}: served minus {delta['against']} {delta['delta']:+.4f} "
            f"[{delta['ci_low']:+.4f}, {delta['ci_high']:+.4f}], {delta['n']} rows in {delta['n_groups']} groups"
        )
    adapter = found["adapter"]
    if adapter:
        yield f"  adapter alone on the bf16 base: {adapter.get('skipped') or _beside(adapter)}"


def numbers(found: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures for the tracker."""
    last = found["replays"][-1] if found["replays"] else {}
    return {
        "serve/passed": float(found["passed"]),
        "serve/prompts": found["prompts"],
        "serve/greedy_equal": found["greedy_equal"],
        "serve/first_divergence_margin": found["first_divergence_margin"],
        "serve/task_delta": (found["task_delta"] or {}).get("delta"),
        **{f"serve/{name}": last.get(name) for name in (*QUANTILES, "tokens_per_s")},
    }


def _summary(found: Mapping[str, Any]) -> str:
    if found["greedy_equal"] is None:
        return f"{found['prompt_ids_different']} of {found['prompts']} prompts have OTHER token ids"
    margin = found["first_divergence_margin"]
    where = "" if margin is None else f", the others first differ at margins up to {_shown(margin)}"
    return (
        f"prompt ids of {found['prompts']} prompts equal, {found['greedy_equal']} answers equal{where} "
        f"(noise floor {found['margin_floor']:.3f})"
    )


def _beside(found: Mapping[str, Any]) -> str:
    delta = found["task_delta"]
    if delta is None or "task" not in delta:
        return _summary(found)
    return (
        f"{found['greedy_equal']} of {found['prompts']} answers are the merged weights'; {delta['task']} "
        f"{delta['metric']} minus {delta['against']} as evaluated {delta['delta']:+.4f} "
        f"[{delta['ci_low']:+.4f}, {delta['ci_high']:+.4f}]"
    )


def _replay(
    replay: Replay, reference: Reference, divergences: Sequence[Divergence], bar: Bar
) -> dict[str, Any]:
    seconds = [reply.seconds for reply in replay.replies]
    different = {item.row for item in divergences}
    gaps = [
        abs(math.log(reply.confidence) - math.log(answer.confidence))
        for row, (reply, answer) in enumerate(zip(replay.replies, reference.answers, strict=True))
        if row not in different and answer.confidence
    ]
    margins = [item.margin for item in divergences if item.margin is not None]
    largest = max(margins, default=None)
    return {
        "concurrency": replay.concurrency,
        "greedy_equal": bar.prompts - len(divergences),
        "largest_margin": None if largest is None else _finite(largest),
        "above_floor": sum(margin >= bar.margin_floor for margin in margins),
        "not_stopped": sum(not stops(reply.ids, reply.finish, reference.ends) for reply in replay.replies),
        "cut": sum(reply.finish == "length" for reply in replay.replies),
        "log_probability_gap": {"mean": float(np.mean(gaps)), "max": max(gaps)} if gaps else None,
        **{name: float(np.quantile(seconds, share)) for name, share in QUANTILES.items()},
        "tokens_per_s": sum(len(reply.ids) for reply in replay.replies) / replay.seconds,
        "seconds": replay.seconds,
    }


def stops(ids: Sequence[int], finish: str, ends: Sequence[int]) -> bool:
    """Whether an answer ends with an end token exactly where one comes, or was cut without any."""
    if any(token in ends for token in ids[:-1]):
        return False
    return (ids[-1] in ends) == (finish == "stop")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _finite(value: float) -> float:
    """JSON has no infinity."""
    return min(value, float(np.finfo(np.float32).max))


def _shown(margin: float) -> str:
    return f"{margin:.3f}" if margin < float(np.finfo(np.float32).max) else "no token at all"
