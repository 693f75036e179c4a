"""One file a data set: where its files are, and which documents they hold."""

from data_prep.sources import clinc150, cuad, documents, icd10, licence_notices, table
from data_prep.sources.source import Source
from finetune.config.data import DataConfig, SourceKind
from finetune.config.schema import PathsConfig

__all__ = ["Source", "open_source"]

OPENERS = {
    SourceKind.table: table.open_table,
    SourceKind.documents: documents.open_documents,
    SourceKind.cuad: cuad.open_cuad,
    SourceKind.clinc150: clinc150.open_queries,
    SourceKind.icd10: icd10.open_terms,
    SourceKind.licence_notices: licence_notices.open_notices,
}


def open_source(data: DataConfig, paths: PathsConfig, workers: int) -> Source:
    """The configured source, its files found and hashed, no document read yet."""
    return OPENERS[data.source.kind](data, paths, workers)
