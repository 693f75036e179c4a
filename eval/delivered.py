"""The arms of what has left the house: an export, by transformers or by vLLM, and the endpoint that serves it."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from eval.answers import Answering
from eval.arms import MERGED, SERVED
from eval.inputs import Inputs
from eval.serving.client import endpoint
from eval.serving.replay import arm_answers, other_prompts
from eval.serving.vllm import MODEL, Served, find_engine, own_server
from finetune.artifacts import Artifact, Output
from finetune.config import RunConfig
from finetune.config.eval import Arm, Engine
from finetune.console import say
from finetune.errors import RefusedError
from finetune.generate import Answer
from finetune.model import load_plain

Prompts = Sequence[list[int]]


def sections(run: RunConfig) -> dict[str, dict[str, str | None]]:
    """What else decides a report: which vLLM answers, and when an endpoint was asked, which may have changed since.

    Raises MachineError where vLLM is not there.
    """
    found: dict[str, dict[str, str | None]] = {}
    if run.eval.engine is Engine.vllm:
        engine = find_engine(run.serve)
        found["engine"] = {"name": engine.name, "version": engine.version}
    if Arm.served in run.eval.arms:
        found["endpoint"] = {"url": run.serve.url, "asked": datetime.now(UTC).isoformat()}
    return found


@dataclass(frozen=True)
class Delivery:
    """How what was delivered answers."""

    run: RunConfig
    inputs: Inputs
    answering: Answering
    output: Output

    def answers(self, arm: Arm, test: Sequence[Mapping[str, Any]], prompts: Prompts) -> list[Answer]:
        """An arm's answers to the test rows; `prompts` are the adapter's own token ids of them.

        Raises RefusedError where an endpoint makes other ids of the rows.
        """
        import torch

        gc.collect()  # the 4-bit base, which nobody refers to now
        torch.cuda.empty_cache()
        if arm is Arm.served:
            return self._by_endpoint(test, prompts)
        assert self.inputs.export is not None  # noqa: S101  (eval.arms names merged, so it was opened)
        by = self._by_vllm if self.run.eval.engine is Engine.vllm else self._by_transformers
        return by(self.inputs.export, prompts)

    def _by_transformers(self, export: Artifact, prompts: Prompts) -> list[Answer]:
        """In evaluation's batches, kept as those of other arms are."""
        import torch

        loaded = load_plain(export.folder, self.inputs.model(), self.run.hardware, torch.bfloat16)
        return self.answering.answer(replace(loaded, base=export.manifest.content), prompts, MERGED)

    def _by_vllm(self, export: Artifact, prompts: Prompts) -> list[Answer]:
        """By a server of our own, from the very token ids; none is kept for another time."""
        run, log = self.run, self.output.path("server.log")
        with own_server(run, find_engine(run.serve), Served(export.folder, MODEL), log) as client:
            say(f"{MERGED}: vLLM {client.version()}")
            limit = run.eval.max_new_tokens
            return arm_answers(
                lambda ids: client.complete(ids, limit), prompts, run.serve.concurrency, MERGED
            )

    def _by_endpoint(self, test: Sequence[Mapping[str, Any]], prompts: Prompts) -> list[Answer]:
        run, conversations = self.run, [row["messages"] for row in test]
        with endpoint(run) as client:
            say(f"{SERVED}: model {client.model} at {run.serve.url}")
            other = other_prompts(client, conversations, prompts, run.serve.concurrency, SERVED)
            if other:
                raise RefusedError(
                    f"{run.serve.url} makes other token ids than training of {len(other)} of {len(test)} prompts: "
                    "another chat template, date or tokenizer; serve the export's own files"
                )
            limit = run.eval.max_new_tokens
            return arm_answers(
                lambda turns: client.chat(turns, limit), conversations, run.serve.concurrency, SERVED
            )
