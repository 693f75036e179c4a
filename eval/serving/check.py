"""The served check from start to served.json: the merged folder, then the adapter alone."""

from typing import Any

from eval.serving import reference, verdict
from eval.serving.client import endpoint
from eval.serving.delta import task_delta
from eval.serving.inputs import Asked, Exported
from eval.serving.lora import LoraService, lora_service
from eval.serving.replay import Observed, observe
from eval.serving.vllm import MODEL, Engine, Served, own_server, template_arguments
from finetune.artifacts import Output
from finetune.config import RunConfig
from finetune.console import say

ADAPTER, ENDPOINT = "adapter", "endpoint"


def check(run: RunConfig, exported: Exported, asked: Asked, engine: Engine, output: Output) -> dict[str, Any]:
    """Write served.json; its content.

    Servers answer before transformers loads anything: a GPU does not hold both.
    """
    seen = _observe_merged(run, exported, asked, engine, output)
    alone = None
    if seen.replays and run.serve.adapter and run.serve.url is None:
        alone = _observe_adapter(run, exported, asked, engine, output)
    merged = reference.of_merged(run, exported, asked, seen.replays) if seen.replays else None
    label = ENDPOINT if run.serve.url else MODEL
    found = {"engine": engine.name, **_figures(run, exported, asked, seen, merged, label), "adapter": None}
    if alone and merged:
        lora, answered = alone
        beside = reference.beside(merged, answered.replays) if answered.replays else None
        skipped: dict[str, Any] = {"skipped": lora.skipped, "max_lora_rank": lora.max_rank, "problems": []}
        figures = _figures(run, exported, asked, answered, beside, ADAPTER) if not lora.skipped else {}
        found["adapter"] = {**skipped, **figures}
    problems = found["problems"] + (found["adapter"] or {}).get("problems", [])
    found |= {"passed": not problems, "problems": problems}
    output.write_json("served.json", found)
    output.counts = {"prompts": len(asked.rows), "greedy_equal": found["greedy_equal"]}
    output.facts = {"engine": engine.name, "version": found["version"], "hardware": run.hardware.name}
    return found


def _figures(
    run: RunConfig,
    exported: Exported,
    asked: Asked,
    seen: Observed,
    merged: reference.Reference | None,
    label: str,
) -> dict[str, Any]:
    """What was seen of one server, and what of it does not hold; without a reference nothing was answered."""
    found = verdict.figures(seen, merged, verdict.Bar(len(asked.rows), exported.margin_floor()))
    problems, delta = list(verdict.problems(found, label)), None
    if merged is not None:
        predictions = exported.adapter_predictions(run.eval)
        served, own = (
            list(answers)[: asked.tests] for answers in (seen.replays[-1].answers(), merged.answers)
        )
        delta = task_delta(asked.test_rows(), served, own, predictions, run.eval)
        problems += verdict.delta_problems(delta, label)
    return {**found, "task_delta": delta, "problems": problems}


def _observe_merged(
    run: RunConfig, exported: Exported, asked: Asked, engine: Engine, output: Output
) -> Observed:
    both = [1, run.serve.concurrency]
    if run.serve.url is not None:
        with endpoint(run) as client:
            say(f"asking {run.serve.url} for model {client.model}")
            return observe(client, asked, run, ENDPOINT, both)
    served = Served(exported.export.folder, MODEL, template_arguments(asked.template_options))
    with own_server(run, engine, served, output.path("server.log")) as client:
        return observe(client, asked, run, MODEL, both)


def _observe_adapter(
    run: RunConfig, exported: Exported, asked: Asked, engine: Engine, output: Output
) -> tuple[LoraService, Observed]:
    lora = lora_service(exported)
    if lora.skipped:
        return lora, Observed(None)
    more = [*template_arguments(asked.template_options), *lora.arguments(ADAPTER)]
    served = Served(exported.base.folder, ADAPTER, more)
    with own_server(run, engine, served, output.path("server_adapter.log")) as client:
        return lora, observe(client, asked, run, ADAPTER, [run.serve.concurrency])
