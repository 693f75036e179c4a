"""Settings of the data that are well typed and still cannot work."""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import urlsplit

from finetune.config.data import (
    ContaminationConfig,
    DataConfig,
    LimitsConfig,
    RowForm,
    SourceConfig,
    SourceKind,
)

SHA256 = re.compile(r"[0-9a-f]{64}")
QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
"""Strings, quoted names and comments of a query: what stands there is no statement."""
INNERMOST = re.compile(r"\([^()]*\)")
PRIVATE = re.compile(r"(?<!\babfs)(?<!\babfss)://[^/]*@|://[^/]*:.*@|\?", re.IGNORECASE)
"""User, password or query string of a URL; before Azure's `@` stands a container, which is no secret."""
LARGEST = {"file_mib": 10**6, "seconds": 10**6, "memory_mib": 10**6, "pages": 10**6, "characters": 2**31 - 1}
TABLE_FIELDS = {
    "target_field",
    "question_field",
    "target_separator",
    "group_field",
    "time_field",
    "language_field",
}
SOURCE_FIELDS = {
    SourceKind.table: {"path", "url_from_env", "query", "text_field", *TABLE_FIELDS},
    SourceKind.documents: {"path", "pattern", "annotations", "file_field", "quote_field", *TABLE_FIELDS},
    SourceKind.cuad: {"path"},
    SourceKind.clinc150: {"path"},
    SourceKind.icd10: {"package", "level"},
    SourceKind.licence_notices: {"package", "min_words", "max_words"},
}
OPTIONAL = {
    SourceKind.icd10: {"level"},
    SourceKind.table: {"path", "url_from_env", "query", *TABLE_FIELDS} - {"target_field"},
    SourceKind.documents: {"pattern", "annotations", "file_field", "quote_field", *TABLE_FIELDS},
}
ANNOTATION_FIELDS = {"file_field", "quote_field", *TABLE_FIELDS}


def data_problems(data: DataConfig) -> Iterator[str]:
    """Every problem of the data section: key, value, what is allowed, what to do."""
    yield from kind_problems("data.source", data.source, SOURCE_FIELDS, OPTIONAL.get(data.source.kind, set()))
    yield from _urls(data.source)
    yield from _table(data.source)
    yield from _documents(data.source)
    yield from _prompt(data)
    yield from _form(data)
    yield from _limits(data.limits)
    yield from _sizes(data)
    yield from _contamination(data.contamination)


def kind_problems(
    key: str, section: Any, fields: Mapping[Any, AbstractSet[str]], optional: AbstractSet[str]
) -> Iterator[str]:
    """Fields that a section's kind needs and lacks, or has and does not use."""
    kind, needed = section.kind.name, fields[section.kind]
    for name in sorted(set().union(*fields.values())):
        given = getattr(section, name) is not None
        if name in needed and not given and name not in optional:
            yield f"{key}.{name} is not set; {key}.kind={kind} needs it"
        if given and name not in needed:
            yield f"{key}.{name} is set, but {key}.kind={kind} does not use it; remove it"


def _urls(source: SourceConfig) -> Iterator[str]:
    """URLs are printed and stand in manifests, so what is wrong with one is said without its text."""
    for name in ("path", "annotations"):
        url = getattr(source, name) or ""
        if "://" not in url:
            continue
        if PRIVATE.search(url):
            yield (
                f"data.source.{name} is a URL with a user, password or query string, which would be stored in "
                "manifests; remove it and use the storage library's own environment variables or config"
            )
        elif not _is_valid(url):
            yield f"data.source.{name} is no valid URL; write one such as s3://bucket/folder"


def _is_valid(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def _table(source: SourceConfig) -> Iterator[str]:
    if source.kind is not SourceKind.table:
        return
    if (source.path is None) == (source.url_from_env is None):
        yield "data.source needs either path, a file, or url_from_env and query, a database; set one of them"
    if (source.url_from_env is None) != (source.query is None):
        yield "data.source.url_from_env and data.source.query belong together; set both, or neither"
    if source.query is not None and not _is_ordered(source.query):
        yield (
            "data.source.query has no ORDER BY outside brackets, so its rows come in any order; end it with one "
            "over columns that tell every row apart, such as ORDER BY id"
        )


def _is_ordered(query: str) -> bool:
    """Whether the whole query has an order: that of a subquery or a window orders nothing outside it."""
    bare, found = QUOTED.sub(" ", query), 1
    while found:
        bare, found = INNERMOST.subn(" ", bare)
    return re.search(r"\border\s+by\b", bare, re.IGNORECASE) is not None


def _documents(source: SourceConfig) -> Iterator[str]:
    if source.kind is not SourceKind.documents:
        return
    given = sorted(name for name in ANNOTATION_FIELDS if getattr(source, name) is not None)
    if source.annotations is None and given:
        yield f"data.source.{given[0]} is a column of data.source.annotations, which is not set; name the table"
    if source.question_field is not None and source.quote_field is not None:
        yield (
            "data.source.question_field has no use beside data.source.quote_field: what is asked is the label; "
            "remove one of them"
        )
    if source.annotations is not None:
        for name in ("file_field", "target_field"):
            if getattr(source, name) is None:
                yield f"data.source.{name} is not set; data.source.annotations needs it"


def _prompt(data: DataConfig) -> Iterator[str]:
    if "{text}" not in data.prompt:
        yield "data.prompt has no {text}, the place where the document's text goes; add it"
    asks = data.form is RowForm.extract or data.source.question_field is not None
    if asks and "{question}" not in data.prompt:
        yield "data.prompt has no {question}, the place where the question or label goes; add it"
    if not asks and "{question}" in data.prompt:
        yield "data.prompt has {question}, but nothing is asked; set data.source.question_field or data.form=extract"


def _form(data: DataConfig) -> Iterator[str]:
    marked = data.source.kind is SourceKind.cuad or data.source.quote_field is not None
    if data.form is RowForm.whole and marked:
        yield "data.form=whole has no use for marked passages; use data.form=extract or data.form=clauses"
    if data.form is not RowForm.whole and not marked:
        yield (
            f"data.form={data.form.name} needs marked passages; use data.source.kind=cuad, or "
            "data.source.kind=documents with quote_field"
        )
    if data.form is RowForm.extract and data.only_labels is not None:
        yield "data.only_labels leaves out rows, and data.form=extract asks for every label; set data.labels instead"


def _limits(limits: LimitsConfig) -> Iterator[str]:
    for name, most in LARGEST.items():
        if getattr(limits, name) > most:
            yield f"data.limits.{name}={getattr(limits, name)} must be at most {most}"


def _sizes(data: DataConfig) -> Iterator[str]:
    split, source, windows = data.split, data.source, data.windows
    if split.val_fraction + split.test_fraction >= 1:
        yield (
            f"data.split.val_fraction={split.val_fraction} and data.split.test_fraction={split.test_fraction} "
            "leave nothing to train on; their sum must be below 1"
        )
    if split.test_sha256 is not None and not SHA256.fullmatch(split.test_sha256):
        yield f"data.split.test_sha256={split.test_sha256} is no sha256; copy the 64 hex digits that prepare prints"
    if data.max_rows is not None and data.max_rows <= 0:
        yield f"data.max_rows={data.max_rows} must be above 0, or null for all rows"
    if source.min_words is not None and source.max_words is not None and source.min_words > source.max_words:
        yield (
            f"data.source.min_words={source.min_words} is above data.source.max_words={source.max_words}; "
            "no text can have so many words"
        )
    if 2 * windows.overlap_chars > windows.max_chars:
        yield (
            f"data.windows.overlap_chars={windows.overlap_chars} is more than half of "
            f"data.windows.max_chars={windows.max_chars}; use at most {windows.max_chars // 2}"
        )
    fraction = data.near_duplicates.max_shingle_fraction
    if fraction is not None and not 0 < fraction <= 1:
        yield f"data.near_duplicates.max_shingle_fraction={fraction} must be above 0 and at most 1, or null"


def _contamination(settings: ContaminationConfig) -> Iterator[str]:
    if settings.ngram_words < 4:
        yield f"data.contamination.ngram_words={settings.ngram_words} cannot tell a copy from chance; use at least 4"
    if settings.drop_words < 0:
        yield f"data.contamination.drop_words={settings.drop_words} must be 0 or above"
    if settings.review_coverage > settings.drop_coverage:
        yield (
            f"data.contamination.review_coverage={settings.review_coverage} is above "
            f"data.contamination.drop_coverage={settings.drop_coverage}; lower it"
        )
