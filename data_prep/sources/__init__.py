"""One file a data set: where its files are, and which documents they hold."""

from data_prep.sources import licence_notices, table
from data_prep.sources.source import Source
from finetune.config.schema import DataConfig, PathsConfig, SourceKind

__all__ = ["Source", "open_source"]

OPENERS = {SourceKind.licence_notices: licence_notices.open_notices, SourceKind.table: table.open_table}


def open_source(data: DataConfig, paths: PathsConfig) -> Source:
    """The configured source, its files found and hashed, no document read yet."""
    return OPENERS[data.source.kind](data, paths)
