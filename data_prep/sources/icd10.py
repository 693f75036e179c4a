"""Clinical terms and their ICD-10-CM code, from the tables that the PyPI package simple-icd-10-cm (MIT) holds.

The terms of a billable code are its description and its inclusion terms. They are not grouped by code: coding means to
know another name of a code that was learned, so its terms may stand on both sides, while equal and nearly equal terms
may not. A code with a single term could only be learned or asked, never both: it is left out, with a count.
"""

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.rows import Ask, Document, Drop, Origin
from data_prep.sources.source import Source, digests, known
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import MachineError
from finetune.packages import package_folder

ONE_TERM = "code with a single term"
TABLES = (".xml", ".txt")


def open_terms(data: DataConfig, paths: PathsConfig, _workers: int) -> Source:
    """The terms of the installed package. Raises MachineError where it is not installed."""
    package = str(data.source.package)
    folder = package_folder(package, "data.source.package") / "data"
    tables = [path for path in sorted(folder.glob("*")) if path.suffix in TABLES]
    if not tables:
        raise MachineError(f"package {package} (data.source.package) has no table of codes; run `make setup`")
    files = digests({f"{package}/data/{path.name}": path for path in tables}, paths)
    return Source(package, files, partial(_terms, data, package, files))


def _terms(data: DataConfig, package: str, files: dict[str, str]) -> Iterator[Document | Drop]:
    codes = importlib.import_module(package)  # not at the top: it parses 10 MB of XML
    name = next((name for name in files if Path(name).suffix == ".xml"), next(iter(files)))
    number = 0
    for code in codes.get_all_codes():
        if not codes.is_leaf(code):
            continue
        terms = list(dict.fromkeys([codes.get_description(code), *codes.get_inclusion_term(code)]))
        for term in terms:
            # terms are counted: the package does not say where in its table one stands
            origin = Origin(name, files[name], number, number + 1)
            number += 1
            if len(terms) == 1:
                yield Drop(origin, ONE_TERM, lost=False)
                continue
            known(code, data.labels, f"{package}: code {code}")
            yield Document(origin, term, (Ask("", code),))
