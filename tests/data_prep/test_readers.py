"""Readers of tables and of texts: what good files become, to the character."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import docx
import hostile_files
import pyarrow as pa
import pytest
from hostile_files import document, file, paragraph
from hostile_files import docx as packed

from data_prep.readers import Extracted, Record, read_table, texts
from finetune.config.data import LimitsConfig
from finetune.errors import DataError
from scripts.check_cuad import pdf_recalls

LIMITS = LimitsConfig()
CUAD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cuad"


def record(value: Any) -> Record:
    return Record({"x": value}, "t:1", 0, 1)


def text_of(path: Path) -> Extracted:
    (found,) = texts([path], LIMITS, workers=1)
    assert isinstance(found, Extracted), found
    return found


@pytest.mark.parametrize(
    ("value", "key"),
    [(" A-7 ", "A-7"), (12, "12"), (12.0, "12"), (Decimal("12.00"), "12"), (date(2024, 5, 31), "2024-05-31")],
)
def test_a_key_is_a_string_a_whole_number_or_a_date(value: Any, key: str) -> None:
    assert record(value).key("x") == key


@pytest.mark.parametrize("value", [1.5, float("nan"), Decimal("Infinity"), True, None, ["a"], b"a"])
def test_nothing_else_is_a_key(value: Any) -> None:
    with pytest.raises(
        DataError, match="t:1: field 'x' is .*; it must be a string, a whole number or a date"
    ):
        record(value).key("x")


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2024-05-31", "2024-05-31"),
        (" 2024-05-31T09:30:00+02:00 ", "2024-05-31T07:30:00+00:00"),
        ("2024-05-31 09:30", "2024-05-31T09:30:00"),
        (date(2024, 5, 31), "2024-05-31"),
        (datetime(2024, 5, 31, 9, tzinfo=UTC), "2024-05-31T09:00:00+00:00"),
    ],
)
def test_a_time_is_iso_and_in_utc_where_it_has_a_zone(value: Any, time: str) -> None:
    assert record(value).time("x") == time


@pytest.mark.parametrize("value", ["31.05.2024", "", 20240531, None, "0001-01-01T00:00:00+02:00"])
def test_a_time_in_another_form_is_refused(value: Any) -> None:
    with pytest.raises(
        DataError, match="t:1: field 'x' is .*; it must be an ISO date or time such as 2024-05-31"
    ):
        record(value).time("x")


@pytest.mark.parametrize(
    ("value", "separator", "labels"),
    [
        (" a;b ", None, "a;b"),
        (" b ; a;;b", ";", ["b", "a"]),
        ("a", ";", ["a"]),
        (["b", " a ", "b"], ";", ["b", "a"]),
    ],
)
def test_labels_are_one_or_a_list_each_once_in_order(value: Any, separator: str | None, labels: Any) -> None:
    assert record(value).labels("x", separator) == labels


def test_an_optional_field_may_be_null_or_blank_but_neither_missing_nor_a_number() -> None:
    assert [record(value).optional("x") for value in (None, " ", "de")] == [None, None, "de"]
    with pytest.raises(DataError, match="t:1: field 'y' is missing; add it"):
        record("de").optional("y")
    with pytest.raises(DataError, match="t:1: field 'x' is number; it must be a string"):
        record(5).optional("x")


def test_csv_cells_may_span_lines_and_ranges_point_into_the_decoded_file(tmp_path: Path) -> None:
    content = '\ufefftext,target\r\n"é, ""1""\r\nline 2",x\r\n\r\nb,y'
    path = file("t.csv", content, tmp_path)
    rows = list(read_table(path, LIMITS))
    assert [row.fields for row in rows] == [
        {"text": 'é, "1"\r\nline 2', "target": "x"},
        {"text": "b", "target": "y"},
    ]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:5"]
    decoded = content.removeprefix("\ufeff")
    assert [decoded[row.start : row.end] for row in rows] == ['"é, ""1""\r\nline 2",x', "b,y"]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    (row,) = read_table(file("t.tsv", "text\ttarget\n" + "é" * 200_000 + "\tx\n", tmp_path), LIMITS)
    assert len(row.text("text")) == 200_000


def test_jsonl_ranges_point_into_the_decoded_file(tmp_path: Path) -> None:
    content = '{"text": "é"}\r\n\n{"text": "b"}'
    rows = list(read_table(file("t.ndjson", content, tmp_path), LIMITS))
    assert [content[row.start : row.end] for row in rows] == ['{"text": "é"}', '{"text": "b"}']
    assert rows[1].where.endswith("t.ndjson:3")


def test_parquet_rows_come_in_order_over_batches_with_their_types(tmp_path: Path) -> None:
    count = 1300  # more than two batches
    columns = {
        "text": [f"row {number}" for number in range(count)],
        "labels": [["a", "b"]] * count,
        "day": pa.array([date(2024, 5, 31)] * count),
        "at": pa.array([datetime(2024, 5, 31, 9, 30)] * count, pa.timestamp("ns", "UTC")),
        "id": pa.array([Decimal("7.00")] * count, pa.decimal128(9, 2)),
        "image": [b"secret"] * count,
        "kind": pa.array(["x"] * count).dictionary_encode(),
    }
    path = hostile_files.parquet(columns, tmp_path)
    rows = list(read_table(path, LIMITS))
    assert [row.text("text") for row in rows] == columns["text"]
    last = rows[-1]
    assert (last.where, last.start, last.end) == (f"{path}:row 1300", 1299, 1300)
    assert last.labels("labels", None) == ["a", "b"]
    assert (last.time("day"), last.time("at")) == ("2024-05-31", "2024-05-31T09:30:00+00:00")
    assert (last.key("id"), last.text("kind")) == ("7", "x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_a_text_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    text = "The café contract costs £500 – “naïve”\n"
    found = text_of(file("t.md", text.encode(encoding), tmp_path))
    assert (found.text, found.pages, found.extractor) == (text, (), encoding)


def test_cyrillic_without_a_mark_is_not_taken_for_western_text(tmp_path: Path) -> None:
    text = "Договор аренды заключён между сторонами в городе Москве"
    assert text_of(file("t.txt", text.encode("cp1251"), tmp_path)).text == text


def test_html_is_what_a_reader_sees(tmp_path: Path) -> None:
    page = """<html><head><title>no</title></head><body><!-- no --><h1>One &amp;
      two</h1><p>caf&eacute; <b>bo</b>ld<br>next</p><p hidden>no</p><div style="DISPLAY : none">no</div>
      <table><tr><td></td><td>b</td></tr><tr><td><p>c</p></td> <td>d</td></tr></table><script>no</script>end"""
    assert text_of(file("t.html", page, tmp_path)).text == "One & two\n\ncafé bold\nnext\n\tb\nc\td\nend"


def test_html_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = '<meta charset="windows-1251"><p>Срок</p>'.encode("cp1251")
    assert text_of(file("t.htm", page, tmp_path)).text == "Срок"


def test_docx_has_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    written = docx.Document()
    written.add_heading("Lease", 1)
    written.add_paragraph("Rent & term")
    table = written.add_table(2, 2)
    for cell, text in zip((cell for row in table.rows for cell in row.cells), "abcd", strict=True):
        cell.text = text
    written.add_paragraph("one\ttwo", style="List Bullet")
    written.save(str(tmp_path / "t.docx"))
    found = text_of(tmp_path / "t.docx")
    assert found.text == "Lease\nRent & term\na\tb\nc\td\none\ttwo\n"
    assert found.extractor.startswith("lxml@")


def test_docx_reads_as_with_its_changes_accepted_and_ends_with_its_notes(tmp_path: Path) -> None:
    run = "<w:r>{}<w:t>{}</w:t></w:r>"
    body = (
        f"<w:p><w:del>{run.format('', 'old ')}</w:del><w:ins>{run.format('', 'new ')}</w:ins>"
        f"{run.format('<w:rPr><w:vanish/></w:rPr>', 'hidden ')}{run.format('<w:rPr/>', 'seen')}</w:p>"
    )
    note = f'<w:footnotes {hostile_files.W}><w:footnote w:type="separator">{paragraph("no")}</w:footnote>'
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    relations = f'<Relationships><Relationship Type="{kind}" Target="footnotes.xml"/></Relationships>'
    content = packed(
        document(body),
        **{
            "footnotes.xml": f"{note}<w:footnote>{paragraph('a note')}</w:footnote></w:footnotes>",
            "_rels/document.xml.rels": relations,
        },
    )
    assert text_of(file("t.docx", content, tmp_path)).text == "new seen\na note\n"


def test_pdf_pages_start_where_they_are_said_to(tmp_path: Path) -> None:
    found = text_of(file("t.pdf", hostile_files.pdf(["one", "", "three"]), tmp_path))
    assert found.text == "one\n\nthree"
    assert [found.text[start:][:3] for start in found.pages] == ["one", "\nth", "thr"]


def test_texts_of_no_files_are_none() -> None:
    assert list(texts([], LIMITS, workers=2)) == []


@pytest.mark.skipif(not CUAD.is_dir(), reason="needs ../shared/data/cuad")
def test_sample_pdfs_have_the_trigrams_of_their_reference_text() -> None:
    """Recall over the multiset of word trigrams of the reference."""
    recalls = pdf_recalls(CUAD)
    assert len(recalls) == 18
    assert sum(recalls) / len(recalls) >= 0.995
    assert min(recalls) >= 0.99
