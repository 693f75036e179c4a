"""The whole stage on what teams really hold: a database, folders of documents, hostile files among good ones."""

import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import pytest
from contracts import EXTRACT, lines, marked, rows_of, run_of, write_contracts

from data_prep.prepare import prepare
from finetune.config.data import RowForm, SourceConfig, SourceKind
from finetune.errors import DataError, RefusedError

ROOT = Path(__file__).resolve().parents[2]
CUAD = ROOT.parent / "shared" / "data" / "cuad"
Rows = list[dict[str, Any]]


def test_windows_of_contracts_quote_the_clause_and_only_training_leaves_empty_ones_out(
    tmp_path: Path,
) -> None:
    write_contracts(tmp_path / "contracts")
    artifact = prepare(run_of(tmp_path, marked(), **EXTRACT))
    report = json.loads(artifact.path("report.json").read_text())
    assert report["spans"] == {
        "annotated": 20,
        "cut": 0,
        "found": 20,
        "missing": 0,
        "not_asked": 0,
        "recoverable": 20,
        "unread": 0,
        "in_dropped_documents": 0,
    }
    train, held_out = rows_of(artifact, "train"), rows_of(artifact, "val", "test")
    assert all(row["target"] for row in train)
    assert report["splits"]["train"]["empty_left_out"] > 0
    assert [] in [row["target"] for row in held_out]
    assert {row["messages"][-1]["content"].split("\n")[0] for row in train + held_out} == {"law?"}
    for document in {row["document"] for row in held_out}:
        windows = sorted(row["window"] for row in held_out if row["document"] == document)
        assert windows == list(range(len(windows)))
    sources = {tuple(row["sources"][0].items()) for row in train}
    assert len(sources) == len(train)


def test_a_window_says_where_it_stands_in_the_file(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    artifact = prepare(run_of(tmp_path, marked(), **EXTRACT))
    paths = {(line["sha256"], line["start"]): line["path"] for line in lines(artifact, "ledger.jsonl")}
    for row in rows_of(artifact):
        source = row["sources"][0]
        raw = (tmp_path / paths[source["sha256"], source["start"]]).read_text()
        assert raw[source["start"] : source["end"]] == row["messages"][-1]["content"].removeprefix("law?\n")


def test_clauses_become_rows_with_their_labels(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    artifact = prepare(run_of(tmp_path, marked(), form=RowForm.clauses))
    found = rows_of(artifact)
    assert len(found) == 20
    assert {tuple(row["target"]) for row in found} == {("law",)}
    assert all(row["messages"][-1]["content"].startswith("Clause") for row in found)


def test_a_quote_that_is_not_there_is_listed_and_too_many_stop_the_stage(tmp_path: Path) -> None:
    write_contracts(tmp_path / "contracts")
    marks = tmp_path / "marks.csv"
    marks.write_text(marks.read_text() + "03.txt,law,Nobody ever wrote this secret sentence.\n")
    artifact = prepare(run_of(tmp_path, marked(), **EXTRACT))
    notes = [line for line in lines(artifact, "ledger.jsonl") if line["outcome"] == "note"]
    assert [(note["path"], note["label"], note["reason"]) for note in notes] == [
        ("contracts/03.txt", "law", "quote not found in its source")
    ]
    marks.write_text(marks.read_text() + "04.txt,law,Nor was this one written by anybody.\n")
    with pytest.raises(
        RefusedError, match="of 22 asked about 2 were not found and 0 are longer.*=0.05"
    ) as refused:
        prepare(run_of(tmp_path, marked(), **EXTRACT))
    assert "Nor" not in str(refused.value)


def test_every_hostile_file_in_a_folder_is_a_counted_drop_and_the_good_ones_are_rows(tmp_path: Path) -> None:
    good = [f"good{number}" for number in range(12)]
    for name in good:
        (tmp_path / "docs" / name).mkdir(parents=True)
        (tmp_path / "docs" / name / "a.txt").write_text(" ".join(f"{name}w{word}" for word in range(20)))
    expected = {}
    for number, case in enumerate(
        case for case in hostile.CASES if case.kind == "text" and case.limits == hostile.LIMITS
    ):
        if "without rights" in case.name:
            continue
        folder = tmp_path / "docs" / f"bad{number}"
        folder.mkdir()
        path = case.build(folder)
        if path.is_file() and not path.is_symlink():  # what is no file is no document
            expected[str(path.relative_to(tmp_path))] = case.expected
    source = SourceConfig(SourceKind.documents, path="docs")
    artifact = prepare(run_of(tmp_path, source, limits=hostile.LIMITS, max_dropped_fraction=1.0))
    dropped = {
        line["path"]: line["reason"]
        for line in lines(artifact, "ledger.jsonl")
        if line["outcome"] == "dropped"
    }
    assert len(expected) > 40
    assert {path: dropped.get(path) for path in expected} == expected
    assert sorted(row["target"] for row in rows_of(artifact)) == sorted(good)
    assert "secret" not in artifact.path("card.md").read_text()


def test_a_folder_without_a_readable_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "docs" / "x").mkdir(parents=True)
    (tmp_path / "docs" / "x" / "a.pdf").write_bytes(b"")
    with pytest.raises(DataError, match="no document of 1 is left; dropped: 1 'empty file'"):
        prepare(run_of(tmp_path, SourceConfig(SourceKind.documents, path="docs")))


def test_a_database_is_read_and_one_changed_cell_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = sqlite3.connect(tmp_path / "tickets.db")
    base.execute(
        "create table tickets (id integer, body text, department text, customer integer, opened text)"
    )
    texts = [" ".join(f"t{number}w{word}" for word in range(12)) for number in range(30)]
    rows = [
        (n, text, ("rent", "price")[n % 2], n // 2, f"2026-01-{n + 1:02d}") for n, text in enumerate(texts)
    ]
    base.executemany("insert into tickets values (?, ?, ?, ?, ?)", rows)
    base.commit()
    monkeypatch.setenv("TICKETS_URL", f"sqlite:///{tmp_path / 'tickets.db'}")
    source = SourceConfig(
        SourceKind.table,
        url_from_env="TICKETS_URL",
        query="select body, department, customer, opened from tickets order by id",
        text_field="body",
        target_field="department",
        group_field="customer",
        time_field="opened",
    )
    first = prepare(run_of(tmp_path, source))
    assert len(rows_of(first)) == 30
    newest = {row["time"] for row in rows_of(first, "test")}
    assert min(newest) > max(row["time"] for row in rows_of(first, "train", "val"))
    assert prepare(run_of(tmp_path, source)).folder == first.folder
    base.execute("update tickets set body = 'something else entirely was written here' where id = 7")
    base.commit()
    assert prepare(run_of(tmp_path, source)).folder != first.folder


def test_questions_about_the_same_text_are_rows_of_their_own(tmp_path: Path) -> None:
    table = []
    for number in range(15):
        text = " ".join(f"t{number}w{word}" for word in range(12))
        table += [
            {"text": text, "question": f"What is {name}?", "answer": f"{name}{number}"}
            for name in ("rent", "term")
        ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    source = SourceConfig(
        SourceKind.table, path="t.jsonl", text_field="text", question_field="question", target_field="answer"
    )
    artifact = prepare(run_of(tmp_path, source, prompt="{text}\n{question}"))
    found = rows_of(artifact)
    assert len(found) == 30
    group_of = Counter(row["group"] for row in found)
    assert set(group_of.values()) == {2}  # one text, one side
    assert found[0]["messages"][-1]["content"].endswith("?")


@pytest.fixture(scope="module")
def cuad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CUAD.is_dir():
        pytest.skip(f"{CUAD} is not there")
    folder = tmp_path_factory.mktemp("cuad")
    shutil.copytree(CUAD, folder / "cuad", ignore=shutil.ignore_patterns("pdf_sample"))
    return folder


def words_of(path: Path) -> set[tuple[str, ...]]:
    found = path.read_text(encoding="utf-8").casefold().split()
    return set(zip(*(found[start:] for start in range(5)), strict=False))


def test_near_identical_contracts_stay_together(cuad: Path) -> None:
    source = SourceConfig(SourceKind.cuad, path="cuad")
    labels = ["Governing Law", "Exclusivity"]
    settings: dict[str, Any] = {"form": RowForm.extract, "prompt": "{question}: {text}", "labels": labels}
    artifact = prepare(run_of(cuad, source, **settings))
    groups: dict[str, set[str]] = {}
    for line in lines(artifact, "ledger.jsonl"):
        if "group" in line:
            groups.setdefault(line["path"], set()).add(line["group"])
    contracts = {path: words_of(cuad / path) for path in groups}
    names = sorted(contracts)
    twins = [
        (one, other)
        for number, one in enumerate(names)
        for other in names[:number]
        if len(contracts[one] & contracts[other]) >= 0.8 * len(contracts[one] | contracts[other])
    ]
    assert len(twins) >= 2
    assert all(groups[one] == groups[other] and len(groups[one]) == 1 for one, other in twins)
    report = json.loads(artifact.path("report.json").read_text())
    assert (
        report["dropped"]["equal text, different targets"] == 8
    )  # a contract filed and marked twice, both whole
    assert report["spans"]["missing"] == 0
    assert max(report["cross_split_max_jaccard"].values()) < 0.7
