"""Metrics of ICD-10-CM codes: of the codes themselves, of their categories and chapters, and how many are none."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from eval.metrics import label_counts
from eval.metrics.label_counts import Labelled, Read
from eval.metrics.measure import ArmStatistic, Measure, Scope, ratio
from eval.metrics.multi_label import labels
from eval.predictions import Prediction

CATEGORY = 3
"""Characters of a category, such as E11 of E11.9."""


@dataclass(frozen=True)
class Codes:
    """The codes that the package simple_icd_10_cm knows; it parses 10 MB of XML when first asked."""

    package: str

    @cached_property
    def book(self) -> Any:
        """The package itself."""
        return importlib.import_module(self.package)

    def is_valid(self, code: str) -> bool:
        """Whether ICD-10-CM holds the code, billable or not; chapters and blocks are no codes."""
        return bool(self.book.is_category_or_subcategory(code))

    def chapter(self, code: str) -> str:
        """The chapter of the code's category; the category itself where ICD-10-CM does not hold it."""
        category = code[:CATEGORY]
        if not self.is_valid(category):
            return category
        return f"chapter {self.book.get_ancestors(category)[-1]}"


@lru_cache(maxsize=4)
def book_of(package: str) -> Codes:
    """The codes of a package, parsed once in a process."""
    return Codes(package)


def written(code: str) -> str:
    """A code as ICD-10-CM writes it: upper case, a point after the category."""
    plain = code.strip().upper().replace(".", "")
    return plain if len(plain) <= CATEGORY else f"{plain[:CATEGORY]}.{plain[CATEGORY:]}"


def coded(row: Prediction) -> Labelled:
    """The gold codes of a row and those given, each once."""
    return _read(written)(row)


def measures(package: str, ranked: bool) -> Mapping[str, Measure]:
    """Every metric by its name; the package holds the valid codes."""
    codes = book_of(package)
    category = _read(lambda code: written(code)[:CATEGORY])
    chapter = _read(lambda code: codes.chapter(written(code)))
    pooled = "all {} pooled: those of a row's codes, each once"
    return {
        "exact_match": label_counts.exact_match(coded),
        "micro_f1": label_counts.micro_f1(coded),
        "macro_f1": label_counts.macro_f1(coded),
        "precision_at_8": label_counts.precision_at_8(coded, ranked, written),
        "category_f1": label_counts.micro_f1(category, pooled.format("3-character categories")),
        "chapter_f1": label_counts.micro_f1(chapter, pooled.format("chapters")),
        "parse_rate": label_counts.parse_rate(),
        "invalid_code_rate": Measure(
            "over all codes given: those that ICD-10-CM does not hold (lower is better)",
            lambda rows, scope: _invalid(rows, scope, codes),
        ),
    }


def _read(name: Callable[[str], str]) -> Read:
    def read(row: Prediction) -> Labelled:
        return label_counts.sets(map(name, labels(row["gold"])), map(name, labels(row["prediction"])))

    return read


def _invalid(rows: Sequence[Prediction], scope: Scope, codes: Codes) -> ArmStatistic:
    said = [coded(row).said for row in rows]
    wrong = [sum(not codes.is_valid(code) for code in given) for given in said]
    return ratio(
        np.array(wrong, dtype=float), np.array([len(given) for given in said], dtype=float), scope.groups
    )
