"""What an evaluation reads: an adapter, the data and the base that made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, input_record
from finetune.chat import render_answer
from finetune.config import RunConfig, recorded
from finetune.config.data import DataConfig
from finetune.config.model import ModelConfig
from finetune.config.plan import HardwareConfig
from finetune.errors import DataError
from finetune.model import Loaded, attach_trained, load_base, trained_on
from finetune.rows import read_rows


@dataclass(frozen=True)
class Inputs:
    """Three finished artifacts whose hashes fit together, and the base's weights as they are read."""

    adapter: Artifact
    data: Artifact
    base: Artifact
    weights: Artifact

    def records(self) -> dict[str, dict[str, str]]:
        """What the report's manifest names as inputs; the adapter's own names the base."""
        return {"adapter": input_record(self.adapter), "data": input_record(self.data)}

    def model(self) -> ModelConfig:
        """The model section that the adapter was trained with."""
        return recorded(ModelConfig, self.adapter.manifest.config["model"])

    def load(self, hardware: HardwareConfig) -> Loaded:
        """The 4-bit base with the adapter on it; `model.disable_adapter()` gives the base back."""
        return attach_trained(load_base(self.weights, self.model(), hardware), self.adapter)

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
    return Inputs(adapter, data, pinned, trained_on(run.paths, adapter, pinned).read)
