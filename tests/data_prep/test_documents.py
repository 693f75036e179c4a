"""Folders of documents: what their files and annotations become, and what is counted instead of read."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_prep.passages import passages
from data_prep.rows import Ask, Document, Drop, Span
from data_prep.sources import Source, open_source
from finetune.config.data import DataConfig, RowForm, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError


def source_of(root: Path, labels: list[str] | None = None, below: str = "", **fields: Any) -> Source:
    (root / "artifacts").mkdir(exist_ok=True)
    source = SourceConfig(SourceKind.documents, **fields)
    data = DataConfig(name="d", licence="CC0-1.0", source=source, labels=labels)
    return open_source(data, PathsConfig(f"{root}{below}", str(root), str(root / "artifacts")), 1)


def documents(source: Source) -> list[Document]:
    return [found for found in source.read() if isinstance(found, Document)]


def drops(source: Source) -> list[tuple[str, str, int]]:
    return [(drop.origin.path, drop.reason, drop.spans) for drop in source.read() if isinstance(drop, Drop)]


def reasons(source: Source) -> list[tuple[str, str]]:
    return [(path, reason) for path, reason, _ in drops(source)]


def test_the_folder_of_a_document_is_its_target(tmp_path: Path) -> None:
    for name in ("in/lease/a.txt", "in/loan/b.txt", "in/c.txt", "in/loan/d.txt", "in/lease/e.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if "d.txt" in name else f"text of {name}")
    source = source_of(tmp_path, path="in", pattern="**/*.txt")
    assert [(found.origin.path, found.asks) for found in documents(source)] == [
        ("in/lease/a.txt", (Ask("", "lease"),)),
        ("in/loan/b.txt", (Ask("", "loan"),)),
    ]
    (folderless, empty) = reasons(source)
    assert folderless == ("in/c.txt", "in no folder that would name its target")
    assert empty[0] == "in/loan/d.txt"
    with pytest.raises(DataError, match="not one of the 1 data.labels"):
        list(source_of(tmp_path, ["lease"], path="in").read())


def annotated(root: Path, lines: list[dict[str, Any]]) -> dict[str, str]:
    (root / "in" / "sub").mkdir(parents=True)
    (root / "in" / "a.txt").write_text("The fee is ten. The law is Ohio's.")
    (root / "in" / "sub" / "b.txt").write_text("Nothing here.")
    (root / "in" / "c.txt").write_text("Not looked at.")
    (root / "in" / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"path": "in", "annotations": "in/notes.jsonl", "file_field": "file", "target_field": "label"}


def test_annotations_and_files_that_miss_each_other_are_counted(tmp_path: Path) -> None:
    fields = annotated(
        tmp_path,
        [
            {"file": "sub/b.txt", "label": "nda", "ask": "Type?", "party": "x", "when": "2024-01-01"},
            {"file": "gone.txt", "label": "nda", "ask": "Type?", "party": "x", "when": "2024-01-01"},
            {"file": "a.txt", "label": "lease", "ask": "Type?", "party": "x", "when": "2024-01-02"},
            {"file": "a.txt", "label": "ten", "ask": "Fee?", "party": "y", "when": "2024-01-03"},
        ],
    )
    source = source_of(
        tmp_path,
        **fields,
        question_field="ask",
        group_field="party",
        time_field="when",
    )
    one, two = documents(source)
    assert one.asks == (Ask("Type?", "lease"), Ask("Fee?", "ten"))
    assert (one.origin.path, one.groups, one.time) == ("in/a.txt", ("x", "y"), "2024-01-03")
    assert two.asks == (Ask("Type?", "nda"),)
    assert reasons(source) == [
        ("in/c.txt", "no annotation"),
        ("in/gone.txt", "annotated, but the file is missing"),
    ]
    assert set(source.files) == {"in/a.txt", "in/c.txt", "in/notes.jsonl", "in/sub/b.txt"}


def test_quoted_passages_are_spans_and_their_labels_the_questions(tmp_path: Path) -> None:
    fields = annotated(
        tmp_path,
        [
            {"file": "a.txt", "label": "law", "quote": "The law is Ohio's."},
            {"file": "a.txt", "label": ["fee", "price"], "quote": "The fee is ten."},
            {"file": "sub/b.txt", "label": None, "quote": ""},
        ],
    )
    source = source_of(tmp_path, **fields, quote_field="quote")
    assert source.questions == ("fee", "law", "price")
    assert [found.spans for found in documents(source)] == [
        (Span("law", "The law is Ohio's."), Span("fee", "The fee is ten."), Span("price", "The fee is ten.")),
        (),
    ]
    labelled = source_of(tmp_path, ["law", "fee", "price"], **fields, quote_field="quote")
    assert labelled.questions == ("law", "fee", "price")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "nowhere"}, "nowhere is not a folder"),
        ({"path": "in", "pattern": "*.pdf"}, r"holds no file that data.source.pattern=\*.pdf matches"),
        ({"path": "in", "annotations": "gone.csv"}, "gone.csv is not a file"),
        ({"path": "in", "pattern": "/etc/*"}, "is no pattern below the folder"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    annotated(tmp_path, [])
    with pytest.raises((DataError, ConfigError), match=message):
        source_of(tmp_path, **fields)


def test_another_byte_in_any_file_is_another_content(tmp_path: Path) -> None:
    fields = annotated(tmp_path, [{"file": "a.txt", "label": "x"}])
    contents = {source_of(tmp_path, **fields).record()["content"]}
    for name in ("a.txt", "c.txt", "notes.jsonl"):
        with (tmp_path / "in" / name).open("a") as stream:
            stream.write(" \n")
        contents.add(source_of(tmp_path, **fields).record()["content"])
    assert len(contents) == 4


def test_what_was_asked_twice_is_one_row_and_what_contradicts_itself_none(tmp_path: Path) -> None:
    fields = annotated(
        tmp_path,
        [
            {"file": "a.txt", "label": ["fee", "law"], "ask": "Type?"},
            {"file": "a.txt", "label": ["fee", "law"], "ask": "Type?"},
            {"file": "a.txt", "label": "ten", "ask": "Fee?"},
            {"file": "sub/b.txt", "label": "nda", "ask": "Type?"},
            {"file": "sub/b.txt", "label": "lease", "ask": "Type?"},
        ],
    )
    source = source_of(tmp_path, **fields, question_field="ask", pattern="**/[ab].txt")
    found = list(source.read())
    assert [item.asks for item in found if isinstance(item, Document)] == [
        (Ask("Type?", ["fee", "law"]), Ask("Fee?", "ten"))
    ]
    assert [(item.origin.path, item.reason, item.lost) for item in found if isinstance(item, Drop)] == [
        ("in/sub/b.txt", "annotated with different targets", True)
    ]


def test_passages_with_other_labels_are_counted_and_misspelt_labels_refused(tmp_path: Path) -> None:
    lines = [
        {"file": "a.txt", "label": "law", "quote": "The law is Ohio's."},
        {"file": "a.txt", "label": "fee", "quote": "The fee is ten."},
    ]
    fields = annotated(tmp_path, lines) | {"quote_field": "quote"}
    source = source_of(tmp_path, ["law"], **fields)
    assert source.questions == ("law",)
    (found,) = documents(source)
    cut = passages(found, DataConfig("d", "CC0-1.0", form=RowForm.clauses, labels=["law"]), source.questions)
    assert (cut.counts["annotated"], cut.counts["not_asked"], cut.counts["found"]) == (2, 1, 1)
    with pytest.raises(ConfigError, match=r"data\.labels has 'lwa', .*it has 2 labels"):
        source_of(tmp_path, ["law", "lwa"], **fields)


def test_passages_of_files_that_are_missing_or_broken_are_counted(tmp_path: Path) -> None:
    lines = [{"file": name, "label": ["x", "y"], "quote": "fee"} for name in ("gone.txt", "e.txt", "a.txt")]
    fields = annotated(tmp_path, lines) | {"quote_field": "quote", "pattern": "?.txt"}
    (tmp_path / "in" / "e.txt").touch()
    source = source_of(tmp_path, **fields)
    assert drops(source) == [
        ("in/c.txt", "no annotation", 0),
        ("in/e.txt", "empty file", 2),
        ("in/gone.txt", "annotated, but the file is missing", 2),
    ]


def test_what_is_no_plain_file_is_counted_and_never_opened(tmp_path: Path) -> None:
    for name in ("in/x/a.txt", "in/x/\udcff.txt", "far/x/hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("some words")
    os.mkfifo(tmp_path / "in" / "x" / "pipe.txt")
    (tmp_path / "in" / "x" / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "in" / "x" / "file.txt").symlink_to(tmp_path / "in" / "x" / "a.txt")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "far")
    kept = ["in/x/a.txt"]
    gone = [
        ("in/linked", "a link, not a file"),
        ("in/x/dangling.txt", "a link, not a file"),
        ("in/x/file.txt", "a link, not a file"),
        ("in/x/pipe.txt", "not a regular file"),
        ("in/x/\\xff.txt", "a name that is not UTF-8"),
    ]
    for pattern, some in ((None, gone), ("**/*.txt", gone), ("*/*.txt", gone[1:]), ("*/*/*.txt", gone[:1])):
        source = source_of(tmp_path, path="in", pattern=pattern)
        assert reasons(source) == some
        assert list(source.files) == (kept if len(some) > 1 else [])
        assert len(documents(source)) == len(source.files)


def test_two_dots_hide_files_only_where_a_pattern_leaves_the_folder(tmp_path: Path) -> None:
    fields = annotated(tmp_path, [{"file": "a.txt", "label": "x"}])
    assert len(documents(source_of(tmp_path, below="/in/..", **fields))) == 1
    fields["path"] = "in/sub/.."
    assert len(documents(source_of(tmp_path, **fields))) == 1
    with pytest.raises(DataError, match="holds no file"):
        source_of(tmp_path, path="in/sub", pattern="../*.txt")


def test_names_in_annotations_may_be_spelt_otherwise_but_not_leave_the_folder(tmp_path: Path) -> None:
    lines = [{"file": "./sub//b.txt", "label": "x"}, {"file": " a.txt", "label": "y"}]
    fields = annotated(tmp_path, lines) | {"annotations": "in/../in/notes.jsonl"}
    source = source_of(tmp_path, **fields)
    assert [found.origin.path for found in documents(source)] == ["in/a.txt", "in/sub/b.txt"]
    assert reasons(source) == [("in/c.txt", "no annotation")]
    with (tmp_path / "in" / "notes.jsonl").open("a") as stream:
        stream.write('{"file": "sub/../../secret.txt", "label": "x"}\n')
    with pytest.raises(DataError, match=r"notes\.jsonl:3: field 'file' names a file outside") as refused:
        list(source_of(tmp_path, **fields).read())
    assert "secret" not in str(refused.value)


def test_a_document_says_what_read_it(tmp_path: Path) -> None:
    fields = annotated(tmp_path, [{"file": "a.txt", "label": "x"}])
    (found,) = documents(source_of(tmp_path, **fields))
    assert found.extractor == "utf-8"
