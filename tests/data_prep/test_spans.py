"""Marked passages are found in the normalised text, or said to be missing; never guessed."""

import pytest

from data_prep.normalise import normalised
from data_prep.passages import passages
from data_prep.rows import Ask, Document, Origin, Span
from data_prep.spans import locate
from finetune.config.data import DataConfig, RowForm, SourceConfig, WindowConfig

RAW = (
    "1.  The  Buyer shall pay the Sellerâ€™s fee of $1.5 within thirty days after re-\nceipt of the invoice, and\n"
    "Page 7 of 12\nwaives “any” ﬁnal claim. The Buyer  may terminate.\r\nThe Buyer may sue.\n"
)
TEXT = normalised(RAW).text


def found(*spans: Span) -> tuple[list[str], list[str]]:
    located, missing = locate(spans, normalised(RAW))
    return [TEXT[part.start : part.end] for part in located], [miss.reason for miss in missing]


@pytest.mark.parametrize(
    ("quote", "there"),
    [
        ("The Buyer  shall pay\nthe", "The Buyer shall pay the"),
        ("The Seller's fee", "the Seller’s fee"),
        ("after receipt of the invoice", "after re-\nceipt of the invoice"),
        ('waives "any" final claim', "waives “any” ﬁnal claim"),
        (
            "pay the Seller's fee of $1.5 within thirty days after receipt of the invoice, "
            "and waives 'any' final claim.",
            TEXT[TEXT.index("pay") : TEXT.index(" claim") + 6],
        ),
    ],
)
def test_a_quote_is_found_although_it_is_spelt_otherwise(quote: str, there: str) -> None:
    assert found(Span("a", quote)) == ([there], [])


@pytest.mark.parametrize(
    "quote",
    [
        "$15",
        "he Seller's",
        "pay the Buyer",
        "shall pay the Buyer any fee within three days",
        "shall pay the Seller's fee of $1.5 never within any days before some other day",
    ],
)
def test_what_merely_resembles_a_quote_is_not_taken_for_it(quote: str) -> None:
    assert found(Span("a", quote)) == ([], ["quote not found in its source"])


def test_a_quote_that_occurs_twice_takes_the_next_place_for_the_same_label() -> None:
    located, _ = locate(
        [Span("a", "The Buyer"), Span("a", "The Buyer"), Span("b", "The Buyer")], normalised(RAW)
    )
    first, second = TEXT.index("The Buyer"), TEXT.index("The Buyer may")
    assert [part.start for part in located] == [first, second, first]


def test_omitted_text_splits_a_quote_into_parts_in_order() -> None:
    located, missing = locate([Span("a", "may terminate.<omitted> The Buyer")], normalised(RAW))
    assert [TEXT[part.start : part.end] for part in located] == ["may terminate.", "The Buyer"]
    assert located[1].start == TEXT.index("The Buyer may sue")
    assert {part.span for part in located} == {0}
    assert missing == []


def test_a_span_with_a_position_must_stand_there_letter_for_letter() -> None:
    at = RAW.index("The Buyer  may")
    assert found(Span("a", "The Buyer  may", at)) == (["The Buyer may"], [])
    assert found(Span("a", "Sellerâ€™s", RAW.index("Seller"))) == (["Seller’s"], [])
    reasons = ["span text differs from its source", "span past the end", "span past the end", "empty quote"]
    bad = [
        Span("a", "The Buyer may", at),
        Span("a", "sue", len(RAW) - 2),
        Span("a", "1", -1),
        Span("a", "\n", len(RAW) - 1),
    ]
    assert found(*bad) == ([], reasons)


@pytest.mark.parametrize("quote", ["", " ", "\x00"])
@pytest.mark.parametrize("start", [0, 5, len(RAW) + 9, None])
def test_a_blank_quote_marks_nothing_wherever_it_stands(quote: str, start: int | None) -> None:
    assert found(Span("a", quote, start)) == ([], ["empty quote"])


def document(text: str, *spans: Span, start: int = 0) -> Document:
    return Document(Origin("a.txt", "0" * 64, start, start + len(text)), text, (Ask("", "x"),), spans)


def settings(form: RowForm, labels: list[str] | None = None) -> DataConfig:
    windows = WindowConfig(max_chars=60, overlap_chars=20)
    return DataConfig("d", "CC0-1.0", source=SourceConfig(), form=form, labels=labels, windows=windows)


def test_a_whole_text_is_one_passage_and_an_empty_one_is_none() -> None:
    cut = passages(document("  a  b ", start=7), settings(RowForm.whole), ())
    assert [(part.text, part.start, part.end, part.asks) for part in cut.passages] == [
        ("a b", 7, 14, (Ask("", "x"),))
    ]
    cut = passages(document(" \x00 "), settings(RowForm.whole), ())
    assert (cut.passages, cut.reason) == ([], "no text left after normalising")


def test_windows_ask_for_every_label_and_quote_what_stands_whole_in_them() -> None:
    text = (
        "The  fee is ten dollars.\n\n"
        + "Nothing is said here. " * 3
        + "\n\nThe law of Ohio governs, "
        + "always " * 9
    )
    spans = (
        Span("law", "law of Ohio"),
        Span("fee", "ten dollars"),
        Span("fee", "no such fee"),
        Span("x", "Nothing"),
    )
    cut = passages(
        document(text, *spans, Span("law", "governs, " + "always " * 8)),
        settings(RowForm.extract, ["fee", "law"]),
        (),
    )
    assert [[ask.question for ask in part.asks] for part in cut.passages] == [["fee", "law"]] * len(
        cut.passages
    )
    answers = [{ask.question: ask.target for ask in part.asks} for part in cut.passages]
    assert answers[0] == {"fee": ["ten dollars"], "law": []}
    assert any(answer == {"fee": [], "law": ["law of Ohio"]} for answer in answers)
    assert any(answer == {"fee": [], "law": []} for answer in answers)
    assert [part.window for part in cut.passages] == list(range(len(cut.passages)))
    for part in cut.passages:
        assert " ".join(text[part.start : part.end].split()) == " ".join(part.text.split())
    assert dict(cut.counts) == {
        "annotated": 5,
        "not_asked": 1,
        "missing": 1,
        "found": 3,
        "recoverable": 2,
        "cut": 1,
    }
    assert [(lost.label, lost.reason.split(":")[0]) for lost in cut.lost] == [
        ("fee", "quote not found in its source"),
        ("law", "longer than any window shows"),
    ]


def test_a_marked_passage_is_asked_for_all_of_its_labels() -> None:
    text = "Aa.  The fee is due. No more."
    spans = (Span("term", "The fee is due."), Span("fee", "The fee is due."), Span("fee", "No more."))
    cut = passages(document(text, *spans, start=100), settings(RowForm.clauses), ("fee", "term"))
    assert [(part.text, part.start, part.end, part.asks[0].target) for part in cut.passages] == [
        ("The fee is due.", 105, 120, ["fee", "term"]),
        ("No more.", 121, 129, ["fee"]),
    ]
    nothing = passages(document(text), settings(RowForm.clauses), ("fee",))
    assert (nothing.passages, nothing.reason) == ([], "no marked passage that is asked about")
