"""What preparation found: every count and measure for report.json; no text, and no targets unless they form a set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.corpus import Corpus
from data_prep.examples import Example, SideCount
from data_prep.rows import SIDES
from data_prep.selection import lost_fraction, reasons
from data_prep.verify_split import Proof
from finetune.config.data import DataConfig, RowForm

SPANS = ("annotated", "unread", "not_asked", "missing", "found", "cut", "recoverable")
"""Of marked passages: annotated = unread + not_asked + missing + found, found = cut + recoverable."""


@dataclass(frozen=True)
class Made:
    """Everything that the stages of preparation handed on."""

    corpus: Corpus
    members: Sequence[Example]
    counts: Mapping[str, SideCount]
    joined: int
    """Near duplicates that were joined."""
    coverage: Mapping[str, Any]
    proof: Proof
    suspects: Mapping[str, Any]


def facts(data: DataConfig, made: Made) -> dict[str, Any]:
    """The report of prepared data."""
    items = made.corpus.items
    sizes = Counter(member.component for member in made.members)
    largest = max(sizes.values())
    found: dict[str, Any] = {
        "name": data.name,
        "form": data.form.name,
        "read": len({item.whole for item in items}) if data.form is not RowForm.whole else len(items),
        "rows": sum(count.rows for count in made.counts.values()),
        "splits": {side: _side(made.counts[side]) for side in SIDES},
        "test_sha256": made.counts["test"].sha256(),
        "dropped": reasons(items),
        "lost_fraction": round(lost_fraction(items), 4),
        "near_duplicates": {**asdict(data.near_duplicates), "joined": made.joined},
        "components": {
            "count": len(sizes),
            "largest_rows": largest,
            "largest_fraction": round(largest / sizes.total(), 4),
        },
        "cross_split_max_jaccard": made.proof.cross_split_max,
        "cross_split_bound": made.proof.cross_split_bound,
        "random_split": {
            "test_rows_leaked": round(made.proof.random_leak),
            "test_rows": sum(member.side == "test" for member in made.members),
        },
        "ngram_coverage_of_test": {"words": data.near_duplicates.shingle_words, **made.proof.coverage},
        "contamination": dict(made.coverage),
        "labels": _labels(data, made),
        "suspects": dict(made.suspects),
    }
    if data.form is not RowForm.whole:
        kept = {item.whole for item in items if not item.reason}
        spans = {key: made.corpus.spans[key] for key in SPANS}
        spans["in_dropped_documents"] = (
            sum(item.marked for item in items if item.whole not in kept) - spans["unread"]
        )
        found["spans"] = spans
    return found


def numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's numbers for the tracker: no labels, no reasons, no text."""
    rows = {f"prepare/rows_{side}": report["splits"][side]["rows"] for side in SIDES}
    return rows | {
        "prepare/read": report["read"],
        "prepare/dropped": sum(report["dropped"].values()),
        "prepare/groups": report["components"]["count"],
        "prepare/leak_max_jaccard": max(report["cross_split_max_jaccard"].values()),
        "prepare/leak_max_coverage": report["ngram_coverage_of_test"]["max"],
        "prepare/leaked_rows_of_random_split": report["random_split"]["test_rows_leaked"],
    }


def _side(count: SideCount) -> dict[str, int]:
    return {
        "rows": count.rows,
        "groups": len(count.groups),
        "labels": len(count.labels),
        "characters": count.characters,
        "target_characters": count.target_characters,
        "empty_left_out": count.empty_left_out,
    }


def _labels(data: DataConfig, made: Made) -> dict[str, Any]:
    counts = made.counts
    total = sum((counts[side].labels for side in SIDES), Counter[str]())
    found: dict[str, Any] = {
        "count": len(total),
        "in_test_not_in_train": made.proof.unlearned_labels,
    }
    if data.has_label_set():
        ordered = sorted(total, key=lambda label: (-total[label], label))
        found["rows"] = {label: {side: counts[side].labels[label] for side in SIDES} for label in ordered}
    return found
