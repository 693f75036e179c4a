import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.config.data import DataConfig, NearDuplicateConfig, SourceConfig, SourceKind, SplitConfig
from finetune.config.schema import PathsConfig, RunConfig

SUBJECTS = ("lease", "loan", "supply", "licence", "agency", "franchise")


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """30 rows that share no word, two labels in turn, a contract for every row."""
    return [
        {
            "text": " ".join(f"{SUBJECTS[row % 6]}{row}w{word}" for word in range(12)),
            "target": ("rent", "price")[row % 2],
            "contract": f"contract-{row}",
        }
        for row in range(30)
    ]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """A run over a table of the given rows (or raw text); further settings go into its data section."""

    def make(
        rows: Sequence[dict[str, Any]] | str, group_field: str | None = None, **settings: Any
    ) -> RunConfig:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "private").mkdir(exist_ok=True)
        (tmp_path / "private" / "t.jsonl").write_text(text, encoding="utf-8")
        source = SourceConfig(SourceKind.table, path="t.jsonl", text_field="text", target_field="target")
        source.group_field = group_field
        defaults: dict[str, Any] = {
            "near_duplicates": NearDuplicateConfig(shingle_words=3, jaccard=0.6),
            "split": SplitConfig(val_fraction=0.2, test_fraction=0.2),
        }
        data = DataConfig(name="demo", licence="CC0-1.0", source=source, **{**defaults, **settings})
        paths = PathsConfig(str(tmp_path / "private"), str(tmp_path), str(tmp_path / "artifacts"))
        return RunConfig(name="demo", data=data, paths=paths)

    return make


@pytest.fixture(autouse=True)
def private_umask() -> Iterator[None]:
    """As `finetune.stage` sets it."""
    before = os.umask(0o077)
    yield
    os.umask(before)
