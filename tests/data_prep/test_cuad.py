"""CUAD: both published forms, names that do not match, and every marked passage of the real contracts."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.passages import passages
from data_prep.rows import Document, Drop, Origin, Span
from data_prep.sources import Source, open_source
from finetune.config.data import DataConfig, RowForm, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
COLUMNS = ("Filename", "Parties", "Parties-Answer", "Governing Law", "Governing Law- Answer")
SETTINGS = DataConfig(
    name="cuad", licence="CC-BY-4.0", source=SourceConfig(SourceKind.cuad, path="cuad"), form=RowForm.extract
)


def opened(root: Path, artifacts: Path, labels: list[str] | None = None) -> Source:
    return open_source(replace(SETTINGS, labels=labels), PathsConfig(str(root), str(root), str(artifacts)), 2)


def write(root: Path, rows: list[tuple[str, ...]], texts: dict[str, str]) -> None:
    (root / "cuad" / "full_contract_txt").mkdir(parents=True)
    with (root / "cuad" / "master_clauses.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    for name, text in texts.items():
        (root / "cuad" / "full_contract_txt" / name).write_text(text, encoding="utf-8")


def test_contracts_are_found_although_their_names_differ(tmp_path: Path) -> None:
    texts = {
        "A CO_1-AGREEMENT.txt": "Law of Ohio.",
        "Macy_s, Inc -  Deal .txt": "Law of Iowa.",
        "LECLANCHÉ S.A. - DEAL.txt": "Law of Bern.",
        "X(1).txt": "one",
        "X 1.txt": "two",
        "lonely.txt": "three",
    }
    rows = [
        ("A CO_1-AGREEMENT.PDF", '["A Co"]', "A", "['Law of Ohio.', 'It\\'s so']", ""),
        ("MACY'S,INC - Deal.PDF'", "[]", "", "['Law of Iowa.']", ""),
        ("LECLANCH? S.A. - DEAL.pdf", "", "", "[]", ""),
        ("X_1.pdf", "[]", "", "[]", ""),
        ("a co_1-agreement.pdf", "[]", "", "[]", ""),
    ]
    write(tmp_path, rows, texts)
    source = opened(tmp_path, tmp_path)
    found = list(source.read())
    kept = [item for item in found if isinstance(item, Document)]
    assert source.questions == ("Parties", "Governing Law")
    assert [(item.text, item.spans) for item in kept] == [
        (
            "Law of Ohio.",
            (
                Span("Parties", "A Co"),
                Span("Governing Law", "Law of Ohio."),
                Span("Governing Law", "It's so"),
            ),
        ),
        ("Law of Bern.", ()),
        ("Law of Iowa.", (Span("Governing Law", "Law of Iowa."),)),
    ]
    assert Counter(item.reason for item in found if isinstance(item, Drop)) == {
        "annotated, but its text is missing": 1,
        "a second row for the same text": 1,
        "a text without annotations": 3,
    }


@pytest.mark.parametrize("cell", ["['secret'", "{'secret': 1}", "[1]", "__import__('os').getcwd()", "secret"])
def test_a_cell_that_is_no_list_of_quotes_is_refused_and_never_run(tmp_path: Path, cell: str) -> None:
    write(tmp_path, [("a.pdf", cell, "", "[]", "")], {"a.txt": "text"})
    with pytest.raises(DataError) as refused:
        list(opened(tmp_path, tmp_path).read())
    assert f"field 'Parties', string of length {len(cell)}, is no list of quotes" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_json_form_is_preferred_and_knows_positions(tmp_path: Path) -> None:
    write(tmp_path, [("a.pdf", "[]", "", "[]", "")], {"a.txt": "text"})
    answers = [{"text": "Ohio", "answer_start": 7}, {"text": "Ohio", "answer_start": 6}]
    questions = [
        {"id": "A__Governing Law", "question": "?", "answers": answers, "is_impossible": False},
        {"id": "A__Parties", "question": "?", "answers": [], "is_impossible": True},
    ]
    contract = {"title": "A", "paragraphs": [{"context": "Law of Ohio.", "qas": questions}]}
    text = json.dumps({"version": "1", "data": [contract, contract]})
    (tmp_path / "cuad" / "CUAD_v1.json").write_text(text)
    source = opened(tmp_path, tmp_path)
    assert list(source.files) == ["cuad/CUAD_v1.json"]
    assert source.questions == ("Governing Law", "Parties")
    one, _ = (item for item in source.read() if isinstance(item, Document))
    assert one.spans == (Span("Governing Law", "Ohio", 7), Span("Governing Law", "Ohio", 6))
    cut = passages(one, SETTINGS, source.questions)
    assert [ask.target for ask in cut.passages[0].asks] == [["Ohio"], []]
    assert [lost.reason for lost in cut.lost] == ["span text differs from its source"]


def paragraph(context: str, label: str, *answers: dict[str, Any]) -> dict[str, Any]:
    return {"context": context, "qas": [{"id": f"A__{label}", "answers": list(answers)}]}


def write_json(root: Path, *contracts: list[dict[str, Any]]) -> None:
    (root / "cuad").mkdir(exist_ok=True)
    data = [{"title": "A", "paragraphs": paragraphs} for paragraphs in contracts]
    (root / "cuad" / "CUAD_v1.json").write_text(json.dumps({"data": data}))


def test_a_paragraph_of_the_json_form_has_a_path_of_its_own_and_counts_its_own_letters(
    tmp_path: Path,
) -> None:
    escaped = 'é"\n' * 50 + "Ohio"
    write_json(
        tmp_path,
        [paragraph("Ohio", "Law"), paragraph(escaped, "Law", {"text": "Ohio", "answer_start": 150})],
        [paragraph("Ohio", "Fee")],
    )
    source = opened(tmp_path, tmp_path)
    found = [item for item in source.read() if isinstance(item, Document)]
    name, digest = next(iter(source.files.items()))
    assert [item.origin for item in found] == [
        Origin(f"{name}#1/1", digest, 0, 4),
        Origin(f"{name}#1/2", digest, 0, 154),
        Origin(f"{name}#2/1", digest, 0, 4),
    ]
    assert source.questions == ("Law", "Fee")
    (cut,) = passages(found[1], replace(SETTINGS, form=RowForm.clauses), source.questions).passages
    assert (cut.start, cut.end) == (150, 154)


@pytest.mark.parametrize("start", [float("inf"), float("nan"), 1.5, -1, True, None, "0", [0]])
def test_a_position_that_is_no_whole_number_is_refused(tmp_path: Path, start: object) -> None:
    write_json(tmp_path, [paragraph("secret", "Law", {"text": "secret", "answer_start": start})])
    with pytest.raises(
        DataError, match="element 1 of 'data': an answer's text must be a string, its answer_start"
    ):
        list(opened(tmp_path, tmp_path).read())


@pytest.mark.parametrize(("context", "label"), [("secret \ud800", "Law"), ("secret", "\udfff")])
def test_half_a_surrogate_pair_is_refused_with_its_place(tmp_path: Path, context: str, label: str) -> None:
    write_json(tmp_path, [paragraph(context, label)])
    with pytest.raises(
        DataError, match="CUAD_v1.json: half a surrogate pair in the value at character 11 of "
    ):
        list(opened(tmp_path, tmp_path).read())


def test_a_label_that_cuad_does_not_have_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, [("a.pdf", "[]", "", "[]", "")], {"a.txt": "text"})
    assert opened(tmp_path, tmp_path, ["Governing Law"]).questions == ("Governing Law",)
    with pytest.raises(ConfigError, match="'Governing law', .*it has 2 labels"):
        opened(tmp_path, tmp_path, ["Parties", "Governing law"])
    write_json(tmp_path, [paragraph("Ohio", "Law")])
    with pytest.raises(ConfigError, match=r"data\.labels has 'Parties', .*it has 1 labels"):
        opened(tmp_path, tmp_path, ["Parties"])


def test_the_passages_of_lost_contracts_are_counted(tmp_path: Path) -> None:
    rows = [("a.pdf", "['x', 'y']", "", "['z']", ""), ("A.pdf", "['x']", "", "[]", "")]
    write(tmp_path, [*rows, ("gone.pdf", "['x', ' ']", "", "['z']", "")], {"a.txt": "", "b.txt": "text"})
    drops = [item for item in opened(tmp_path, tmp_path).read() if isinstance(item, Drop)]
    assert [(drop.reason, drop.spans) for drop in drops] == [
        ("a second row for the same text", 1),
        ("annotated, but its text is missing", 2),
        ("empty file", 3),
        ("a text without annotations", 0),
    ]


def test_a_folder_without_cuad_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has neither CUAD_v1.json nor master_clauses.csv"):
        opened(tmp_path, tmp_path)


@pytest.mark.skipif(not (DATA / "cuad").is_dir(), reason="../shared/data/cuad is absent")
def test_the_marked_passages_of_the_real_contracts_are_found(tmp_path: Path) -> None:
    source = opened(DATA, tmp_path)
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    windows = 0
    for item in source.read():
        if isinstance(item, Drop):
            reasons[item.reason] += 1
            continue
        cut = passages(item, SETTINGS, source.questions)
        counts += cut.counts
        windows += len(cut.passages)
        for passage in cut.passages:
            assert len(passage.text) <= SETTINGS.windows.max_chars
            assert 0 <= passage.start < passage.end <= len(item.text)
    assert len(source.questions) == 41
    assert reasons == {"annotated, but its text is missing": 3, "a text without annotations": 2}
    assert counts["annotated"] == 10_717
    assert counts["found"] >= 0.999 * counts["annotated"]
    assert counts["found"] + counts["missing"] == counts["annotated"]
    assert counts["recoverable"] + counts["cut"] == counts["found"]
    assert counts["cut"] <= 5
    assert windows > 5_000
