"""The arm `merged`: an export of the adapter under evaluation, answered by transformers or by vLLM."""

import gc
from collections.abc import Sequence
from dataclasses import replace

from eval.answers import Answering
from eval.arms import MERGED
from eval.inputs import Inputs
from eval.serving.replay import completed
from eval.serving.vllm import MODEL, Served, find_engine, own_server
from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.config.eval import Engine
from finetune.console import say
from finetune.generate import Answer
from finetune.model import load_plain


def engine_section(run: RunConfig) -> dict[str, dict[str, str | None]]:
    """What else decides a report where vLLM answers: which one it is. Raises MachineError where it is not there."""
    if run.eval.engine is Engine.transformers:
        return {}
    engine = find_engine(run.serve)
    return {"engine": {"name": engine.name, "version": engine.version}}


def answers(
    run: RunConfig, inputs: Inputs, answering: Answering, prompts: Sequence[list[int]], output: Output
) -> list[Answer]:
    """The merged weights' answers to the adapter's very prompts."""
    import torch

    assert inputs.export is not None  # noqa: S101  (eval.arms names merged, so it was opened)
    gc.collect()  # the 4-bit base, which nobody refers to now
    torch.cuda.empty_cache()
    if run.eval.engine is Engine.vllm:
        return _by_vllm(run, inputs.export, prompts, output)
    return _by_transformers(run, inputs, inputs.export, answering, prompts)


def _by_transformers(
    run: RunConfig, inputs: Inputs, export: Artifact, answering: Answering, prompts: Sequence[list[int]]
) -> list[Answer]:
    """In evaluation's batches, kept as those of other arms are."""
    import torch

    loaded = load_plain(export.folder, inputs.model(), run.hardware, torch.bfloat16)
    return answering.answer(replace(loaded, base=export.manifest.content), prompts, MERGED)


def _by_vllm(run: RunConfig, export: Artifact, prompts: Sequence[list[int]], output: Output) -> list[Answer]:
    """By a server of our own, serve.concurrency prompts at once; none is kept for another time."""
    with own_server(
        run, find_engine(run.serve), Served(export.folder, MODEL), output.path("server.log")
    ) as client:
        say(f"{MERGED}: vLLM {client.version()}")
        return completed(client, prompts, run.eval.max_new_tokens, run.serve.concurrency, MERGED)
