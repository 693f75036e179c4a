"""Customer queries and their intents: CLINC150 (Larson et al., EMNLP 2019; CC BY 3.0, github.com/clinc/oos-eval).

Its own train, val and test parts are pooled, since the split here is our own; queries outside all 150 intents keep
their label `oos`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.rows import Ask, Document, Origin
from data_prep.sources.json_elements import elements
from data_prep.sources.source import Source, digests, known, place_of
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import DataError

FILE = "data_full.json"


def open_queries(data: DataConfig, paths: PathsConfig, _workers: int) -> Source:
    """The queries of `data.source.path`, the folder or its file. Raises DataError where it is missing."""
    name = str(data.source.path)
    path = place_of(name, paths)
    if path.is_dir():
        name, path = f"{name}/{FILE}", path / FILE
    if not path.is_file():
        raise DataError(f"{path} is not a file; put CLINC150's {FILE} there, or correct data.source.path")
    files = digests({name: path}, paths)
    return Source(name, files, partial(_queries, data, path, name, files[name]))


def _queries(data: DataConfig, path: Path, name: str, digest: str) -> Iterator[Document]:
    for found in elements(path):
        pair = found.value
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise DataError(f"{found.where} is no pair of strings; it must be [query, intent]")
        for part, held in zip(("query", "intent"), pair, strict=True):
            if not held.strip():
                raise DataError(f"{found.where}: {part} is blank; fill it or remove the pair")
        text, intent = pair
        known(intent, data.labels, f"{found.where}: intent")
        yield Document(Origin(name, digest, found.start, found.end), text, (Ask("", intent),))
