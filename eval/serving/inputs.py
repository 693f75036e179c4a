"""What a served check reads: an export, what it was made from, and the prompts of rows that were held out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.inputs import holds_merged
from finetune import artifacts
from finetune.artifacts import Artifact, input_record
from finetune.config import RunConfig, recorded
from finetune.config.eval import EvalConfig, Scoring
from finetune.config.model import ModelConfig
from finetune.console import say
from finetune.errors import ConfigError, DataError, RefusedError
from finetune.model import read_renderer
from finetune.rows import json_lines, read_rows

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Exported:
    """An export, the adapter, data and base it was made from, and the report that let it pass, if it is still there."""

    export: Artifact
    adapter: Artifact
    data: Artifact
    base: Artifact
    report: Artifact | None

    def records(self) -> dict[str, dict[str, str]]:
        """What a manifest names as inputs."""
        found = {"export": self.export, "adapter": self.adapter, "data": self.data, "base": self.base}
        found |= {"report": self.report} if self.report else {}
        return {key: input_record(item) for key, item in found.items()}

    def model(self) -> ModelConfig:
        """The model section that the adapter was trained with."""
        return recorded(ModelConfig, self.adapter.manifest.config["model"])

    def margin_floor(self) -> float:
        """Logits by which the adapter's own first choice moves against its second, by the batch alone.

        Raises DataError where fidelity.json has none.
        """
        path = self.export.path("fidelity.json")
        try:
            return float(json.loads(path.read_text(encoding="utf-8"))["floor"]["margin"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{path} has no floor.margin; run `make export CONF=…` again") from None

    def adapter_predictions(self, config: EvalConfig) -> list[dict[str, Any]] | None:
        """What the adapter itself predicted in the report; None where it answered in another way than a server does."""
        if self.report is None:
            return None
        then = recorded(EvalConfig, self.report.manifest.config["eval"])
        same = (then.tasks, then.max_new_tokens) == (config.tasks, config.max_new_tokens)
        if then.scoring is not Scoring.generate or not same:
            return None
        return [row for _, row in json_lines(self.report.path("predictions_adapter.jsonl"))]


@dataclass(frozen=True)
class Asked:
    """The rows that are replayed, the test rows first, and training's token ids of their prompts."""

    rows: Sequence[Row]
    prompts: Sequence[list[int]]
    tests: int
    template_options: Mapping[str, Any]
    """What the chat template gets at every prompt, such as the fixed date."""

    def test_rows(self) -> Sequence[Row]:
        """The rows that metrics are about."""
        return self.rows[: self.tests]


def open_exported(run: RunConfig) -> Exported:
    """The current export, of today's settings, or with RUN= that one.

    Raises ConfigError where it is unfinished, stale or without merged weights, DataError where it is damaged.
    """
    export = artifacts.open_current(run.paths, "export", run.name, {"export": run.export}, run.run)
    if not holds_merged(export.manifest):
        raise ConfigError(
            f"{export.folder} holds no merged weights (export.format); export with export.format=merged: the adapter "
            "alone is asked beside them"
        )
    adapter, data, base = (
        artifacts.open_input(run.paths, export, key) for key in ("adapter", "data", "base")
    )
    return Exported(export, adapter, data, base, _report(run, export))


def held_out(run: RunConfig, exported: Exported) -> Asked:
    """The test rows, filled up with validation rows to serve.min_prompts.

    Validation rows choose when training stops, so no metric is about them. Raises RefusedError where both are too few.
    """
    test, more = (read_rows(exported.data.path(f"{side}.jsonl")) for side in ("test", "val"))
    rows = [*test, *more[: max(0, run.serve.min_prompts - len(test))]]
    if len(rows) < run.serve.min_prompts:
        raise RefusedError(
            f"{len(test)} test and {len(more)} validation rows are fewer than "
            f"serve.min_prompts={run.serve.min_prompts}; enlarge the data, or lower serve.min_prompts"
        )
    say(f"{len(rows)} held-out prompts: {len(test)} test rows and {len(rows) - len(test)} validation rows")
    renderer = read_renderer(exported.base.folder, exported.model())
    prompts = [renderer.prompt_ids(row["messages"]) for row in rows]
    return Asked(rows, prompts, len(test), renderer.options)


def _report(run: RunConfig, export: Artifact) -> Artifact | None:
    if "report" not in export.manifest.inputs:
        return None
    try:
        return artifacts.open_input(run.paths, export, "report")
    except ConfigError:
        say(
            "note: the report that let this export pass is gone; the merged weights' own answers stand in its place"
        )
        return None
