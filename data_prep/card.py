"""What preparation found, as a data card for people and as lines for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.rows import SIDES
from finetune.config.data import DataConfig

SHOWN_LABELS = 30


def card(data: DataConfig, found: Mapping[str, Any]) -> str:
    """The data card in Markdown."""
    sections = [
        _head(data),
        _counts(found),
        _spans(found),
        _leaks(found),
        _contamination(data, found),
        _label_table(found),
        _suspects(found),
        _gaps(data, found),
    ]
    return "\n\n".join(section for section in sections if section).rstrip() + "\n"


def _head(data: DataConfig) -> str:
    lines = [f"# Data card: {data.name}", f"Licence: {data.licence}"]
    if data.attribution:
        lines.append(f"Attribution: {data.attribution}")
    asked = f"Source kind `{data.source.kind.name}`, rows of form `{data.form.name}`, seed {data.seed}."
    return "\n\n".join([*lines, asked])


def _counts(found: Mapping[str, Any]) -> str:
    splits = [
        [side, *(part[key] for key in ("rows", "groups", "labels", "characters"))]
        for side, part in found["splits"].items()
    ]
    dropped = [[reason, count] for reason, count in found["dropped"].items()] or [["none", 0]]
    return "\n\n".join(
        [
            f"## Rows\n\n{found['read']:,} documents read, {found['rows']:,} rows made.",
            _table(["split", "rows", "groups", "labels", "prompt characters"], splits),
            f"The test set is `{found['test_sha256'][:16]}…`: `data.split.test_sha256` freezes it.",
            "## Dropped",
            _table(["reason", "texts"], dropped),
            f"Of what the source's filters let through, {found['lost_fraction']:.1%} was lost "
            "for other reasons than sampling.",
        ]
    )


def _spans(found: Mapping[str, Any]) -> str:
    spans = found.get("spans")
    if not spans:
        return ""
    left_out = found["splits"]["train"]["empty_left_out"]
    return "\n\n".join(
        [
            "## Marked passages",
            _table(["what became of them", "passages"], list(spans.items())),
            f"{left_out:,} training rows without an answer were left out (`data.windows.keep_empty_fraction`); "
            "val and test keep all. ledger.jsonl lists every lost passage.",
        ]
    )


def _leaks(found: Mapping[str, Any]) -> str:
    near, joined = found["near_duplicates"], found["components"]
    bounds = found["cross_split_bound"]
    maxima = [
        [sides, _highest(value, bounds[sides])] for sides, value in found["cross_split_max_jaccard"].items()
    ]
    coverage = found["ngram_coverage_of_test"]
    return "\n\n".join(
        [
            "## Split",
            f"{near['joined']:,} near duplicates (Jaccard {near['jaccard']} or more over "
            f"{near['shingle_words']}-word shingles) were joined. They, documents and source groups join "
            f"the rows to {joined['count']:,} components, the largest of "
            f"{joined['largest_rows']:,} rows ({joined['largest_fraction']:.1%}); no component is cut.",
            f"For comparison: {random_split_line(found)}. Highest similarity between two sides, measured by "
            "separate code:",
            _table(["sides", "highest Jaccard"], maxima),
            f"Of a test text's {coverage['words']}-word runs, {coverage['median']:.1%} stand somewhere in train "
            f"(median; 90 % of the texts at most {coverage['p90']:.1%}, the highest {coverage['max']:.1%}).",
        ]
    )


def _highest(value: float, bound: float) -> str:
    return f"{value:.3f}" if bound <= value else f"below {bound:.3f}"


def _contamination(data: DataConfig, found: Mapping[str, Any]) -> str:
    settings, measured = data.contamination, found["contamination"]
    lines = [
        "## Contamination",
        f"Share of a held-out text's n-grams (up to {settings.ngram_words} words, those in more than "
        f"{settings.boilerplate_fraction:.0%} of the training texts aside) that stand in the training texts: "
        f"median {measured['median']:.1%}, 90 % at most {measured['p90']:.1%}. {measured['dropped']:,} rows of val and "
        f"test at {settings.drop_coverage:.0%} or more and of at least {settings.drop_words} words were dropped; "
        f"{measured['review']:,} others from {settings.review_coverage:.0%} on are marked in ledger.jsonl for review.",
    ]
    if settings.references:
        lines.append(
            f"Compared with {len(settings.references)} held-out or public set(s): {measured['repeats']:,} texts that "
            f"repeat one of their items were dropped; {measured['references_unjudged']:,} were too short to judge."
        )
    return "\n\n".join(lines)


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the terminal: what was joined, the sides, and what a random split would have leaked."""
    near, joined = found["near_duplicates"], found["components"]
    yield (
        f"near duplicates: {near['joined']:,} joined at Jaccard {near['jaccard']} or more; "
        f"{joined['count']:,} components, the largest {joined['largest_rows']:,} rows "
        f"({joined['largest_fraction']:.1%})"
    )
    sides = (
        f"{side} {part['rows']:,} rows in {part['groups']:,} groups" for side, part in found["splits"].items()
    )
    yield "split: " + ", ".join(sides)
    bounds = found["cross_split_bound"]
    maxima = ", ".join(
        f"{sides} {_highest(value, bounds[sides])}"
        for sides, value in found["cross_split_max_jaccard"].items()
    )
    yield f"verified: highest Jaccard between two sides: {maxima}"
    yield random_split_line(found)
    if found["suspects"].get("found"):
        yield "labels: rows that look mislabelled stand in suspects.jsonl, the likeliest first; look at the first 20"
    yield f"test set {found['test_sha256'][:16]}…; data.split.test_sha256={found['test_sha256']} freezes it"


def random_split_line(found: Mapping[str, Any]) -> str:
    """What a plain shuffle of the same texts would leak, in one sentence."""
    leaked, rows = found["random_split"]["test_rows_leaked"], found["random_split"]["test_rows"]
    return f"a random split would leak {leaked:,} of {rows:,} test texts into train; this one 0"


def _label_table(found: Mapping[str, Any]) -> str:
    labels = found["labels"]
    unseen = labels["in_test_not_in_train"]
    lines = [f"## Labels\n\n{labels['count']:,} labels; {unseen:,} stand in test and not in train."]
    rows = labels.get("rows")
    if rows:
        shown = [[f"`{label}`", *sides.values()] for label, sides in list(rows.items())[:SHOWN_LABELS]]
        lines.append(_table(["label", *SIDES], shown))
    if rows and len(rows) > SHOWN_LABELS:
        lines.append(f"The {SHOWN_LABELS} most frequent; report.json has all.")
    return "\n\n".join(lines)


def _suspects(found: Mapping[str, Any]) -> str:
    suspects = found["suspects"]
    if not suspects.get("judged"):
        return ""
    return (
        f"{suspects['judged']:,} rows were judged by a classifier that had not seen their group; suspects.jsonl ranks "
        f"the {suspects['found']:,} whose label it contradicts, the likeliest error first. Where a label set is hard, "
        "most of them are right: look at the first 20. Nothing was changed."
    )


def _gaps(data: DataConfig, found: Mapping[str, Any]) -> str:
    gaps = ["Personal data was not looked for; texts are as their source holds them."]
    if found["labels"]["in_test_not_in_train"]:
        gaps.append("Some labels of the test set cannot have been learned.")
    if data.near_duplicates.max_shingle_fraction is not None:
        gaps.append("Texts made of boilerplate alone were not compared with each other.")
    if not found["suspects"].get("judged"):
        gaps.append("Labels were not checked for errors: that needs one label a row from a set.")
    if any(
        bound > found["cross_split_max_jaccard"][sides] for sides, bound in found["cross_split_bound"].items()
    ):
        gaps.append(
            "The highest similarity between two sides is a bound, not a measurement, where it says below."
        )
    return "## Known gaps\n\n" + "\n".join(f"- {gap}" for gap in gaps)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *(line(row) for row in rows)])
