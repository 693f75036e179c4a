"""What a run learns from: one prepared data set or several mixed, and nothing that the main one is tested on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import artifacts
from finetune.artifacts import Artifact, input_record
from finetune.config import RunConfig
from finetune.errors import ConfigError, RefusedError
from finetune.licences import Licence, require_lawful
from finetune.rows import DATA, read_rows, repeats

Rows = list[dict[str, Any]]

HELD_OUT = ("val", "test")
NAMED = 5
"""Rows that a refusal names."""


@dataclass(frozen=True)
class TrainingData:
    """The main prepared data set, whose val and test rows are measured on, and the sets mixed into training."""

    main: Artifact
    mixed: dict[str, Artifact]
    """The sets of `train.mix` beside the main one, by name."""
    names: frozenset[str]
    """All of `train.mix`; empty where the main set is learned from alone."""

    def path(self, name: str) -> Path:
        """Path of one of the main set's files."""
        return self.main.path(name)

    def records(self) -> dict[str, dict[str, str]]:
        """All of it as a manifest names its inputs."""
        mixed = {f"mixed_{name}": input_record(artifact) for name, artifact in self.mixed.items()}
        return {"data": input_record(self.main), **mixed}

    def mix(self) -> dict[str, dict[str, str]]:
        """What must travel with the adapter of each mixed set: its licences, attribution and content."""
        return {name: _travelling(artifact) for name, artifact in self.mixed.items()}

    def rows(self) -> Rows:
        """The rows to learn from; in a mix each with the name of its set.

        Raises RefusedError where a mixed set repeats what the main one holds out.
        """
        if not self.names:
            return read_rows(self.path("train.jsonl"))
        name = self.main.manifest.name
        sources = {**({name: self.main} if name in self.names else {}), **self.mixed}
        sets = {name: read_rows(artifact.path("train.jsonl")) for name, artifact in sources.items()}
        held_out = [row for side in HELD_OUT for row in read_rows(self.path(f"{side}.jsonl"))]
        problems = [line for name in self.mixed for line in overlaps(name, sets[name], held_out)]
        if problems:
            raise RefusedError(problems)
        return [{**row, DATA: name} for name in sorted(sets) for row in sets[name]]


def open_data(run: RunConfig) -> TrainingData:
    """The main data set as this configuration or RUN= asks for it, and the last run of each mixed one as recorded.

    Raises ConfigError where one was never prepared, RefusedError where its licence forbids the declared use.
    """
    main = artifacts.open_current(run.paths, "data", run.data.name, {"data": run.data}, run.run)
    mixed: dict[str, Artifact] = {}
    problems = []
    for name in sorted(run.train.mix.keys() - {run.data.name}):
        if not artifacts.has_current(run.paths, "data", name):
            problems.append(
                f"train.mix.{name} was never prepared; run `make prepare` with an experiment whose data is {name}"
            )
            continue
        mixed[name] = artifacts.open_last(run.paths, "data", name)
    if problems:
        raise ConfigError(problems)
    data = TrainingData(main, mixed, frozenset(run.train.mix))
    require_lawful_mix(run, data.mix())
    return data


def require_lawful_mix(run: RunConfig, mix: Mapping[str, Mapping[str, str]]) -> list[Licence]:
    """The licences of the mixed sets and their teachers; raises as require_lawful does, for every set."""
    found: list[Licence] = []
    for of in mix.values():
        data = replace(run.data, licence=of["licence"], teacher_licence=of.get("teacher_licence"))
        found += require_lawful(replace(run, data=data))[1:]
    return found


def _travelling(data: Artifact) -> dict[str, str]:
    section = data.manifest.config["data"]
    teacher = section.get("teacher_licence")
    found = {
        "licence": section["licence"],
        "attribution": section["attribution"],
        "content": data.manifest.content,
    }
    return found | ({"teacher_licence": teacher} if teacher else {})


def overlaps(
    name: str, rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """A line where rows of the set `name` repeat a prompt or a document of the held-out rows."""
    asked, repeated = repeats(rows, held_out)
    for ids, what in ((asked, "ask what"), (repeated, "are of documents that")):
        if ids:
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            yield (
                f"train.mix.{name}: {len(ids)} of {len(rows)} rows {what} the main data set holds out for val or test "
                f"({', '.join(ids[:NAMED])}{more}); take them out of {name}, or join both sources in one data set, "
                "which is then split together"
            )
