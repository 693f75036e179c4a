"""What counts as lost of a document that several rows come from."""

from data_prep.items import Item
from data_prep.rows import Origin
from data_prep.selection import NOT_SAMPLED, lost_documents


def passages(document: str, *dropped: tuple[str, bool]) -> list[Item]:
    """The passages of a document, each with the reason why it became no row and whether that is a loss."""
    whole = Origin(document, "0" * 64, 0, 100)
    return [Item(whole, whole, reason=reason, lost=lost) for reason, lost in dropped]


def test_a_document_is_lost_where_nothing_is_left_and_no_setting_took_the_rest() -> None:
    found = [
        *passages("kept", ("", True), ("exact duplicate", True)),
        *passages("lost", ("exact duplicate", True), ("equal text, different targets", True)),
        *passages("not sampled", (NOT_SAMPLED, False), ("exact duplicate", True)),
        *passages("left out", (NOT_SAMPLED, False)),
    ]
    assert lost_documents(found) == (1, 1)
