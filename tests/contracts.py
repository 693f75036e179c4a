"""A folder of contracts with marked clauses, and runs over it."""

import json
from pathlib import Path
from typing import Any

from finetune.artifacts import Artifact
from finetune.config.data import DataConfig, RowForm, SourceConfig, SourceKind, SplitConfig, WindowConfig
from finetune.config.schema import PathsConfig, RunConfig
from finetune.rows import read_rows

Rows = list[dict[str, Any]]


def run_of(folder: Path, source: SourceConfig, **settings: Any) -> RunConfig:
    settings = {"split": SplitConfig(val_fraction=0.2, test_fraction=0.2), **settings}
    data = DataConfig(name="demo", licence="CC0-1.0", source=source, **settings)
    return RunConfig(
        name="demo", data=data, paths=PathsConfig(str(folder), str(folder), str(folder / "artifacts"))
    )


def lines(artifact: Artifact, name: str) -> Rows:
    return [json.loads(line) for line in artifact.path(name).read_text().splitlines()]


def rows_of(artifact: Artifact, *sides: str) -> Rows:
    return [
        row for side in sides or ("train", "val", "test") for row in read_rows(artifact.path(f"{side}.jsonl"))
    ]


def write_contracts(folder: Path, count: int = 20) -> None:
    """Contracts of three sections; the second holds the clause that `marks.csv` quotes, the last has none."""
    folder.mkdir()
    quotes = ["file,label,quote"]
    for number in range(count):
        sections = [" ".join(f"s{number}p{part}w{word}" for word in range(30)) for part in range(3)]
        clause = f"Clause{number} is governed by the laws of State{number}."
        (folder / f"{number:02d}.txt").write_text(
            f"{sections[0]}\n\n{clause} {sections[1]}\n\n{sections[2]}\n"
        )
        quotes.append(f"{number:02d}.txt,law,{clause}")
    (folder.parent / "marks.csv").write_text("\n".join(quotes) + "\n")


def marked(**fields: Any) -> SourceConfig:
    names = {
        "annotations": "marks.csv",
        "file_field": "file",
        "target_field": "label",
        "quote_field": "quote",
    }
    return SourceConfig(SourceKind.documents, path="contracts", **names, **fields)


EXTRACT: dict[str, Any] = {
    "form": RowForm.extract,
    "prompt": "{question}?\n{text}",
    "windows": WindowConfig(max_chars=300, overlap_chars=80, keep_empty_fraction=0.0),
}
