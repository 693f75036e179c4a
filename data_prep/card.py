"""What preparation found, as facts for report.json and as a data card for people."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.rows import SIDES, Row
from data_prep.selection import Selection
from data_prep.verify_split import Proof
from finetune.config.schema import DataConfig

SHOWN_LABELS = 30


def facts(
    data: DataConfig, selection: Selection, parts: Mapping[str, Sequence[Row]], pairs: int, proof: Proof
) -> dict[str, Any]:
    """Every count and measure of the prepared data; no text, and no targets unless they form a closed set."""
    sizes = Counter(row.group for rows in parts.values() for row in rows)
    largest = max(sizes.values())
    return {
        "name": data.name,
        "read": selection.read(),
        "rows": sizes.total(),
        "splits": {side: _side(parts[side]) for side in SIDES},
        "dropped": selection.reasons(),
        "lost_fraction": round(selection.lost_fraction, 4),
        "near_duplicates": {
            "shingle_words": data.near_duplicates.shingle_words,
            "jaccard": data.near_duplicates.jaccard,
            "pairs": pairs,
        },
        "components": {
            "count": len(sizes),
            "largest_rows": largest,
            "largest_fraction": round(largest / sizes.total(), 4),
        },
        "cross_split_max_jaccard": proof.cross_split_max,
        "random_split": {"test_rows_leaked": proof.random_leak, "test_rows": len(parts["test"])},
        "labels": _labels(data, parts),
    }


def _side(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "groups": len({row.group for row in rows}),
        "labels": len({row.target for row in rows}),
        "characters": sum(len(turn["content"]) for row in rows for turn in row.messages),
        "target_characters": sum(len(row.target) for row in rows),
    }


def _labels(data: DataConfig, parts: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    counts = {side: Counter(row.target for row in parts[side]) for side in SIDES}
    total = sum(counts.values(), Counter[str]())
    found: dict[str, Any] = {
        "count": len(total),
        "in_test_not_in_train": len(counts["test"].keys() - counts["train"].keys()),
    }
    if data.has_label_set():
        ordered = sorted(total, key=lambda label: (-total[label], label))
        found["rows"] = {label: {side: counts[side][label] for side in SIDES} for label in ordered}
    return found


def card(data: DataConfig, found: Mapping[str, Any]) -> str:
    """The data card in Markdown."""
    return "\n\n".join([_head(data), _counts(found), _leaks(found), _label_table(found)]).rstrip() + "\n"


def _head(data: DataConfig) -> str:
    lines = [f"# Data card: {data.name}", f"Licence: {data.licence}"]
    if data.attribution:
        lines.append(f"Attribution: {data.attribution}")
    asked = f"Source kind `{data.source.kind.name}`, seed {data.seed}."
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
            "## Dropped",
            _table(["reason", "documents"], dropped),
            f"Of the documents that the source's filters let through, {found['lost_fraction']:.1%} were lost "
            "for other reasons than sampling.",
        ]
    )


def _leaks(found: Mapping[str, Any]) -> str:
    near, joined = found["near_duplicates"], found["components"]
    maxima = [[sides, f"{value:.3f}"] for sides, value in found["cross_split_max_jaccard"].items()]
    return "\n\n".join(
        [
            "## Split",
            f"{near['pairs']:,} pairs reach Jaccard {near['jaccard']} over "
            f"{near['shingle_words']}-word shingles. They and the source groups join "
            f"the rows to {joined['count']:,} components, the largest of "
            f"{joined['largest_rows']:,} rows ({joined['largest_fraction']:.1%}); no component is cut.",
            f"For comparison: {random_split_line(found)}. Highest similarity between two sides, measured by "
            "separate code:",
            _table(["sides", "highest Jaccard"], maxima),
        ]
    )


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the terminal: what was joined, the sides, and what a random split would have leaked."""
    near, joined = found["near_duplicates"], found["components"]
    yield (
        f"near duplicates: {near['pairs']:,} pairs at Jaccard {near['jaccard']} or more; "
        f"{joined['count']:,} components, the largest {joined['largest_rows']:,} rows "
        f"({joined['largest_fraction']:.1%})"
    )
    sides = (
        f"{side} {part['rows']:,} rows in {part['groups']:,} groups" for side, part in found["splits"].items()
    )
    yield "split: " + ", ".join(sides)
    maxima = ", ".join(f"{sides} {value:.3f}" for sides, value in found["cross_split_max_jaccard"].items())
    yield f"verified: highest Jaccard between two sides: {maxima}"
    yield random_split_line(found)


def random_split_line(found: Mapping[str, Any]) -> str:
    """What a plain shuffle of the same rows would have leaked, in one sentence."""
    leaked, rows = found["random_split"]["test_rows_leaked"], found["random_split"]["test_rows"]
    return f"a random split would leak {leaked:,} of {rows:,} test rows into train; this one 0"


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


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *(line(row) for row in rows)])
