"""A user's own table: a file, local or remote, or a database's SELECT, whose fields are named in the data config."""

import os
from collections.abc import Callable, Iterator
from functools import partial

from data_prep.readers import Record, read_table, sql
from data_prep.rows import Ask, Document, Origin
from data_prep.sources.source import Source, digests, known, place_of
from finetune.config.data import DataConfig, SourceConfig
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError


def open_table(data: DataConfig, paths: PathsConfig, _workers: int) -> Source:
    """The table of `data.source.path`, or of `query`. Raises DataError where it is missing or empty."""
    if data.source.url_from_env is not None:
        return _open_query(data, data.source.url_from_env)
    name = str(data.source.path)
    path = place_of(name, paths)
    if not path.is_file():
        raise DataError(f"{path} is not a file; put it there, or set DATA_ROOT or data.source.path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; put rows into it")
    files = digests({name: path}, paths)
    return Source(
        name, files, partial(_documents, data, partial(read_table, path, data.limits), name, files[name])
    )


def _open_query(data: DataConfig, variable: str) -> Source:
    """The rows of the query, named by the variable that holds the URL: the URL itself may hold a password."""
    url, query = os.environ.get(variable), str(data.source.query)
    if not url:
        raise ConfigError(f"environment variable {variable} is not set (named by data.source.url_from_env)")
    digest = sql.digest(url, query, variable)
    return Source(
        variable,
        {variable: digest},
        partial(_documents, data, partial(sql.records, url, query, variable, digest), variable, digest),
    )


def _documents(
    data: DataConfig, records: Callable[[], Iterator[Record]], name: str, digest: str
) -> Iterator[Document]:
    for record in records():
        text = record.text(str(data.source.text_field))
        groups, time, language = traits(record, data.source)
        origin = Origin(name, digest, record.start, record.end)
        yield Document(origin, text, (ask(record, data),), groups=groups, time=time, language=language)


def ask(record: Record, data: DataConfig) -> Ask:
    """The record's question and answer. Raises DataError for a label outside the closed set."""
    source = data.source
    target = record.labels(str(source.target_field), source.target_separator)
    known(target, data.labels, f"{record.where}: field '{source.target_field}'")
    return Ask(record.text(source.question_field).strip() if source.question_field else "", target)


def traits(record: Record, source: SourceConfig) -> tuple[tuple[str, ...], str | None, str | None]:
    """The record's groups, time and language, as far as the config names fields for them."""
    return (
        (record.key(source.group_field),) if source.group_field else (),
        record.time(source.time_field) if source.time_field else None,
        record.optional(source.language_field) if source.language_field else None,
    )
