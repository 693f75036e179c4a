"""Span scoring on real contracts, from CUAD's texts and marked passages to the official numbers."""

import json
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_cuad import scores as official

from data_prep.passages import passages
from data_prep.rows import Document
from data_prep.sources import open_source
from eval.tasks import Task, make_task
from finetune.config.data import DataConfig, RowForm, SourceConfig, SourceKind
from finetune.config.eval import TaskConfig, TaskKind
from finetune.config.schema import PathsConfig
from finetune.generate import Answer

DATA = Path(__file__).parents[3] / "shared/data"
LABELS = ["Parties", "Governing Law", "Anti-Assignment", "Cap on Liability", "Audit Rights"]
CONTRACTS = 8

pytestmark = pytest.mark.skipif(not (DATA / "cuad").is_dir(), reason=f"no CUAD in {DATA}")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The windows of eight contracts, each asked about five labels."""
    source = SourceConfig(SourceKind.cuad, path="cuad")
    data = DataConfig("cuad", "CC-BY-4.0", source=source, form=RowForm.extract, labels=LABELS)
    paths = PathsConfig(str(DATA), str(DATA), str(tmp_path_factory.mktemp("artifacts")))
    documents = (found for found in open_source(data, paths, 1).read() if isinstance(found, Document))
    found = []
    for number, document in enumerate(islice(documents, CONTRACTS)):
        for passage in passages(document, data, LABELS).passages:
            for place, ask in enumerate(passage.asks):
                row = {
                    "id": f"{number}-{passage.window}-{place}",
                    "group": f"g{number}",
                    "document": f"c{number}",
                }
                found.append(
                    {**row, "window": passage.window, "question": ask.question, "target": ask.target}
                )
    return found


@pytest.fixture
def task() -> Task:
    return make_task("quote", TaskConfig(TaskKind.spans))


def test_gold_answers_get_full_marks(rows: list[dict[str, Any]], task: Task) -> None:
    found = task.predict(rows, [Answer(json.dumps(row["target"]), 0.9, ()) for row in rows], "adapter")
    assert len(found) == CONTRACTS * len(LABELS)
    assert len(rows) > 2 * len(found)  # there were windows to merge
    measured = task.measure(found, set())
    assert measured["exact_match"] == measured["micro_f1"] == measured["macro_f1"] == measured["aupr"] == 1.0
    assert measured["cuad_aupr"] == measured["cuad_precision_at_80_recall"] == 1.0


def test_imperfect_answers_get_the_official_numbers(rows: list[dict[str, Any]], task: Task) -> None:
    """Cut, missed and made-up quotes, each answer with a confidence of its own."""
    rng = np.random.default_rng(9)
    answers, gold, nbest = [], defaultdict(dict), defaultdict(dict)  # type: ignore[var-annotated]
    for row in rows:
        quotes = [
            quote[: int(len(quote) * rng.uniform(0.4, 1.2)) + 1]
            for quote in row["target"]
            if rng.random() < 0.9
        ]
        quotes += ["This Agreement shall be governed"] * int(rng.random() < 0.1)
        score = float(rng.random())
        answers.append(Answer(json.dumps(quotes), score, ()))
        name = f"{row['document']}__{row['question']}"
        gold[name] |= dict.fromkeys(row["target"])
        for quote in quotes:
            nbest[name][quote] = max(score, nbest[name].get(quote, 0.0))
    wanted = {name: list(passages) for name, passages in gold.items()}
    given = {name: list(nbest[name].items()) for name in wanted}
    found = task.predict(rows, answers, "adapter")
    measured = task.measure(found, set())
    names = ("cuad_aupr", "cuad_precision_at_80_recall", "cuad_precision_at_90_recall")
    assert tuple(measured[name] for name in names) == official(wanted, given)
    assert 0.3 < (measured["cuad_aupr"] or 0) < 0.99
    by_label = task.by_label(found) if task.by_label else {}
    for label in LABELS:
        assert tuple(by_label[label][name] for name in names) == official(wanted, given, label)
