"""Clinical terms and their ICD-10-CM code or chapter, from the tables in the PyPI package simple-icd-10-cm (MIT).

The terms of a billable code are its description and its inclusion terms. They are not grouped by code: coding means to
know another name of a code that was learned, so its terms may stand on both sides, while equal and nearly equal terms
may not. A code with a single term could only be learned or asked, never both: it is left out, with a count.
Asked for their chapter, all terms serve, and those of one three-character category stay together: a diabetes that was
learned would tell the chapter of another one by its name alone.
"""

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.rows import Ask, Document, Drop, Origin
from data_prep.sources.source import Source, digests, known
from finetune.config.data import CodeLevel, DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import MachineError
from finetune.packages import package_folder

ONE_TERM = "code with a single term"
TABLES = (".xml", ".txt")
CATEGORY = 3
"""Characters of a code that name its category (ICD-10-CM guidelines, I.A.2)."""


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
    chapters = data.source.level is CodeLevel.chapter
    number = 0
    for code in codes.get_all_codes():
        if not codes.is_leaf(code):
            continue
        terms = list(dict.fromkeys([codes.get_description(code), *codes.get_inclusion_term(code)]))
        for term in terms:
            # terms are counted: the package does not say where in its table one stands
            origin = Origin(name, files[name], number, number + 1)
            number += 1
            if len(terms) == 1 and not chapters:
                yield Drop(origin, ONE_TERM, lost=False)
                continue
            target = _chapter(codes, code) if chapters else code
            known(target, data.labels, f"{package}: code {code}")
            yield Document(origin, term, (Ask("", target),), groups=(code[:CATEGORY],) if chapters else ())


def _chapter(codes: Any, code: str) -> str:
    """The title of a code's chapter, without the range of codes that follows it."""
    return str(codes.get_description(codes.get_ancestors(code)[-1])).rpartition(" (")[0]
