"""What an evaluation reads: an adapter, the data and the base that made it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.predictions import require_several_answers
from eval.tasks import Task
from finetune import artifacts
from finetune.artifacts import Artifact, Manifest, input_record
from finetune.chat import render_answer
from finetune.config import RunConfig, recorded
from finetune.config.data import DataConfig
from finetune.config.eval import Arm
from finetune.config.model import ModelConfig
from finetune.config.plan import HardwareConfig
from finetune.errors import ConfigError, DataError, RefusedError
from finetune.generate import Answer
from finetune.model import Loaded, attach_champion, attach_trained, load_base, trained_on
from finetune.rows import read_rows, repeats

QUANTISED_BY = ("quantisation", "double_quantisation")
"""Settings beside the base's content that decide the 4-bit weights."""


@dataclass(frozen=True)
class Inputs:
    """Three finished artifacts whose hashes fit together, and the base's weights as they are read."""

    adapter: Artifact
    data: Artifact
    base: Artifact
    weights: Artifact
    champion: Artifact | None = None
    """The adapter in service, which eval.against names."""
    export: Artifact | None = None
    """Of the adapter, where the arm `merged` is asked for."""

    def records(self) -> dict[str, dict[str, str]]:
        """What the report's manifest names as inputs; the adapter's own names the base."""
        return {key: input_record(item) for key, item in self.named() if key != "base"}

    def named(self) -> list[tuple[str, Artifact]]:
        """Everything that was opened, by its name as an input."""
        found = [("adapter", self.adapter), ("data", self.data), ("base", self.base)]
        more = [("champion", self.champion), ("export", self.export)]
        return [*found, *((name, item) for name, item in more if item)]

    def model(self) -> ModelConfig:
        """The model section that the adapter was trained with."""
        return recorded(ModelConfig, self.adapter.manifest.config["model"])

    def load(self, hardware: HardwareConfig) -> Loaded:
        """The 4-bit base with the adapter on it and any champion beside; `disable_adapter()` gives the base back."""
        loaded = attach_trained(load_base(self.weights, self.model(), hardware), self.adapter)
        if self.champion is not None:
            attach_champion(loaded, self.champion)
        return loaded

    def has_label_set(self) -> bool:
        """Whether targets are labels, which a report may show."""
        return recorded(DataConfig, self.data.manifest.config["data"]).has_label_set()

    def rows(self, side: str) -> list[dict[str, Any]]:
        """The rows of train, val or test. Raises DataError where there is none."""
        path = self.data.path(f"{side}.jsonl")
        rows = read_rows(path)
        if not rows:
            raise DataError(f"{path} has no rows; prepare more data, or raise data.split.{side}_fraction")
        return rows

    def vocabulary(self, train: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """The known labels: the targets of the training rows, what lists among them hold, and data.labels."""
        labels = self.data.manifest.config["data"].get("labels") or []
        targets = [row["target"] for row in train]
        listed = (str(label) for target in targets if isinstance(target, list) for label in target)
        return frozenset([*map(render_answer, targets), *listed, *labels])


def open_inputs(run: RunConfig) -> Inputs:
    """The last adapter, which must be of today's settings and data, or with RUN= that one and its own data.

    Raises ConfigError where something is missing, stale or of other data, DataError where it is damaged.
    """
    config = {"model": run.model, "train": run.train}
    adapter = artifacts.open_current(run.paths, "adapter", run.name, config, run.run)
    if run.run is None:
        data = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, None)
        artifacts.require_input(adapter, "data", data)
    else:
        data = artifacts.open_input(run.paths, adapter, "data")
    pinned = artifacts.open_input(run.paths, adapter, "base")
    champion = _champion(run, adapter) if run.eval.against else None
    export = _export_of(run, adapter) if Arm.merged in run.eval.arms else None
    return Inputs(adapter, data, pinned, trained_on(run.paths, adapter, pinned).read, champion, export)


def holds_merged(export: Manifest) -> bool:
    """Whether an export holds the weights in bf16 that fidelity.json is about, and not another format."""
    return bool(export.config["export"].get("format", "merged") == "merged")


def require_unseen(
    run: RunConfig, inputs: Inputs, train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]
) -> None:
    """Raise RefusedError where an adapter was trained on a question, document or group of the test rows."""
    for adapter in filter(None, (inputs.adapter, inputs.champion)):
        for seen in _trained_on(run, adapter):
            same = seen.folder == inputs.data.folder
            _require_apart(adapter, seen, train if same else read_rows(seen.path("train.jsonl")), test)


def require_usable(tasks: Sequence[Task], test: Sequence[Mapping[str, Any]]) -> None:
    """Refuse before anything is answered what no answer could make a verdict of.

    Raises DataError where an id is doubled, all rows are in one group, or all gold answers of a task are the same.
    """
    doubled = [name for name, count in Counter(str(row["id"]) for row in test).items() if count > 1]
    if doubled:
        raise DataError(
            f"test.jsonl holds {len(doubled)} doubled ids, the first is {min(doubled)}; prepare again"
        )
    gold = [Answer(render_answer(row["target"]), None) for row in test]
    for task in tasks:
        rows = task.predict(test, gold, "gold")
        if len({row["group"] for row in rows}) == 1:
            raise DataError(
                f"all {len(rows)} test rows of task {task.name} are in one group, so nothing can be said about "
                "other groups; enlarge the test set"
            )
        require_several_answers(rows)


def _champion(run: RunConfig, adapter: Artifact) -> Artifact:
    """The adapter in service. Raises ConfigError where it is this one, or of another base or prompt format."""
    found = artifacts.open_run(run.paths, "adapter", run.name, str(run.eval.against))
    if found.manifest.content == adapter.manifest.content:
        raise ConfigError(
            f"eval.against={run.eval.against} is the adapter that is evaluated; name the one in service, or null"
        )
    mine, theirs = adapter.manifest, found.manifest
    for what, one, other in (
        ("base", mine.inputs["base"]["content"], theirs.inputs["base"]["content"]),
        *((f"model.{key}", mine.config["model"][key], theirs.config["model"][key]) for key in QUANTISED_BY),
        ("chat template", mine.facts["template"], theirs.facts["template"]),
    ):
        if one != other:
            raise ConfigError(
                f"eval.against={run.eval.against} is of another {what} ({str(other)[:8]}, not {str(one)[:8]}): both "
                "adapters must stand on the same weights and prompts; compare prediction files with eval.compare"
            )
    return found


def _export_of(run: RunConfig, adapter: Artifact) -> Artifact:
    """The export of this very adapter: the current one where it is, else the newest. Raises ConfigError without one."""
    content = adapter.manifest.content
    if artifacts.has_current(run.paths, "export", run.name):
        current = artifacts.open_last(run.paths, "export", run.name)
        if current.manifest.inputs["adapter"]["content"] == content and holds_merged(current.manifest):
            return current
    found = [
        manifest
        for manifest in artifacts.finished(run.paths, "export", run.name)
        if manifest.inputs["adapter"]["content"] == content and holds_merged(manifest)
    ]
    if not found:
        raise ConfigError(
            f"eval.arms=[merged] needs an export of adapter {run.name}/{adapter.manifest.run}; run `make export "
            f"CONF=…{f' RUN={run.run}' if run.run else ''}`"
        )
    newest = max(found, key=lambda manifest: (manifest.created, manifest.run))
    return artifacts.open_run(run.paths, "export", run.name, newest.run)


def _trained_on(run: RunConfig, adapter: Artifact) -> Iterator[Artifact]:
    """The data sets whose training rows an adapter learned from."""
    found = adapter.manifest
    keys = [key for key in found.inputs if key.startswith("mixed_")]
    if not found.config["train"].get("mix") or found.inputs["data"]["name"] in found.config["train"]["mix"]:
        keys.append("data")
    for key in keys:
        yield artifacts.open_input(run.paths, adapter, key)


def _require_apart(
    adapter: Artifact,
    seen: Artifact,
    rows: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
) -> None:
    asked, documents = repeats(rows, test)
    if asked or documents:
        raise RefusedError(
            f"adapter {adapter.manifest.name}/{adapter.manifest.run} was trained on {len({*asked, *documents})} of "
            f"{len(rows)} rows of {seen.manifest.name}/{seen.manifest.run} that repeat the test set ({len(asked)} ask "
            f"what one of its {len(test)} rows asks, {len(documents)} are of their documents or groups); evaluate on "
            "rows that it never saw, or train again without these"
        )
