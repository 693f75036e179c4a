"""A user's own table: one JSONL file whose fields are named in the data config."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.labels import require_known
from data_prep.readers import jsonl
from data_prep.rows import Document, Origin
from data_prep.sources.source import Source
from finetune.artifacts.hashing import HashCache
from finetune.config.schema import DataConfig, PathsConfig
from finetune.errors import DataError


def open_table(data: DataConfig, paths: PathsConfig) -> Source:
    """The table of `data.source.path`. Raises DataError where it is missing or empty."""
    name = str(data.source.path)
    path = Path(paths.data_root) / name
    if not path.is_file():
        raise DataError(f"{path} is not a file; put it there, or set DATA_ROOT or data.source.path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it needs one JSON object a line")
    cache = HashCache(Path(paths.artifacts_root), paths.rehash)
    digest = cache.digest(path)
    cache.save()
    return Source(name, {name: digest}, partial(_documents, data, path, digest))


def _documents(data: DataConfig, path: Path, digest: str) -> Iterator[Document]:
    source = data.source
    for record in jsonl.read(path):
        target = record.text(str(source.target_field)).strip()
        require_known(target, data.labels, f"{record.where}: field '{source.target_field}'")
        yield Document(
            origin=Origin(str(source.path), digest, record.start, record.end),
            text=record.text(str(source.text_field)),
            target=target,
            groups=(_group(record, source.group_field),) if source.group_field else (),
        )


def _group(record: jsonl.Record, field: str) -> str:
    value = record.fields.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # keys of databases are often numbers
    return record.text(field)
