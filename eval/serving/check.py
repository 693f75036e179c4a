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
    bar = verdict.Bar(len(asked.rows), exported.margin_floor())
    lora = lora_service(exported) if run.serve.adapter and run.serve.url is None else None
    seen = _observe_merged(run, exported, asked, engine, output)
    seen_adapter = (
        _observe_adapter(run, exported, asked, engine, output, lora) if lora and not lora.skipped else None
    )
    merged = reference.of_merged(run, exported, asked, seen.replays) if seen.replays else None
    found = {"engine": engine.name, **verdict.figures(seen, merged, bar), "task_delta": None, "adapter": None}
    problems = list(verdict.problems(found, ENDPOINT if run.serve.url else MODEL))
    if merged is not None:
        predictions = exported.adapter_predictions(run.eval)
        served, own = (
            list(answers)[: asked.tests] for answers in (seen.replays[-1].answers(), merged.answers)
        )
        found["task_delta"] = task_delta(asked.test_rows(), served, own, predictions, run.eval)
        problems += verdict.delta_problems(found["task_delta"])
    if lora:
        found["adapter"] = _adapter(run, exported, asked, lora, seen_adapter, bar)
        if seen_adapter:
            problems += verdict.problems(found["adapter"], ADAPTER, judge_answers=False)
    found |= {"passed": not problems, "problems": problems}
    output.write_json("served.json", found)
    output.counts = {"prompts": bar.prompts, "greedy_equal": found["greedy_equal"]}
    output.facts = {"engine": engine.name, "version": found["version"], "hardware": run.hardware.name}
    return found


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
    run: RunConfig, exported: Exported, asked: Asked, engine: Engine, output: Output, lora: LoraService
) -> Observed:
    more = [*template_arguments(asked.template_options), *lora.arguments(ADAPTER)]
    served = Served(exported.base.folder, ADAPTER, more)
    with own_server(run, engine, served, output.path("server_adapter.log")) as client:
        return observe(client, asked, run, ADAPTER, [run.serve.concurrency])


def _adapter(
    run: RunConfig,
    exported: Exported,
    asked: Asked,
    lora: LoraService,
    seen: Observed | None,
    bar: verdict.Bar,
) -> dict[str, Any]:
    """The adapter alone: its figures are recorded beside transformers', whose factors are not rounded to bf16."""
    if seen is None:
        return {"skipped": lora.skipped}
    found = reference.of_adapter(run, exported, asked, seen.replays) if seen.replays else None
    return {"max_lora_rank": lora.max_rank, **verdict.figures(seen, found, bar)}
