"""Contracts with the clauses that lawyers marked: CUAD v1 (The Atticus Project, CC BY 4.0, atticusprojectai.org/cuad).

Read from the folder as it is published: `CUAD_v1.json` where it is there, since it knows the passages' positions, else
`master_clauses.csv` with the texts in `full_contract_txt`, whose names do not always match.
"""

import ast
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.normalise import normalise
from data_prep.readers import Broken, Extracted, Record, read_table, texts
from data_prep.rows import Document, Drop, Origin, Span
from data_prep.sources.json_elements import Element, elements
from data_prep.sources.source import Source, asked_labels, digests, place_of
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import DataError

JSON = "CUAD_v1.json"
TABLE = "master_clauses.csv"
TEXTS = "full_contract_txt"
NAME = "Filename"
ANSWER = re.compile(r"\s*-\s*Answer$")
"""Columns with a normalised answer, such as `Parties-Answer`; the passages stand in the column before."""
ENDING = re.compile(r"\.(pdf|txt)\W*$", re.IGNORECASE)

NO_TEXT = "annotated, but its text is missing"
NO_ROW = "a text without annotations"
SECOND_ROW = "a second row for the same text"


def open_cuad(data: DataConfig, paths: PathsConfig, workers: int) -> Source:
    """The contracts of the folder `data.source.path`. Raises DataError where what it needs is missing."""
    name = str(data.source.path).rstrip("/")
    folder = place_of(name, paths)
    if folder.is_file() or (folder / JSON).is_file():
        name, path = (name, folder) if folder.is_file() else (f"{name}/{JSON}", folder / JSON)
        files = digests({name: path}, paths)
        labels = asked_labels(_json_labels(path), data)
        return Source(name, files, partial(_from_json, path, name, files[name]), labels)
    contracts = {f"{name}/{TEXTS}/{path.name}": path for path in sorted((folder / TEXTS).glob("*.txt"))}
    table = folder / TABLE
    if not table.is_file() or not contracts:
        raise DataError(
            f"{folder} has neither {JSON} nor {TABLE} with {TEXTS}/*.txt; unpack CUAD v1 there, or correct "
            "data.source.path"
        )
    files = digests({f"{name}/{TABLE}": table, **contracts}, paths)
    read = partial(_from_table, data, table, contracts, files, workers)
    return Source(name, files, read, asked_labels(_table_labels(table, data), data))


def _table_labels(table: Path, data: DataConfig) -> tuple[str, ...]:
    first = next(read_table(table, data.limits), None)
    if first is None or NAME not in first.fields:
        raise DataError(f"{table} has no row with the column {NAME}; use CUAD's {TABLE}")
    return tuple(_labels(first))


def _labels(record: Record) -> list[str]:
    return [name for name in record.fields if name and name != NAME and not ANSWER.search(name)]


def _from_table(
    data: DataConfig, table: Path, contracts: Mapping[str, Path], files: Mapping[str, str], workers: int
) -> Iterator[Document | Drop]:
    name_of = _matcher(contracts)
    marked: dict[str, tuple[Span, ...]] = {}
    first = next(iter(files))  # the table's name
    for record in read_table(table, data.limits):
        row = Origin(first, files[first], record.start, record.end)
        name = name_of(record.text(NAME))
        spans = tuple(Span(label, quote) for label in _labels(record) for quote in _quotes(record, label))
        if name is None or name in marked:
            yield Drop(row, SECOND_ROW if name else NO_TEXT, spans=len(spans))
            continue
        marked[name] = spans
    contents = texts([contracts[name] for name in contracts if name in marked], data.limits, workers)
    for name in contracts:
        if name in marked:
            yield _contract(Origin(name, files[name], 0, 0), next(contents), marked[name])
        else:
            yield Drop(Origin(name, files[name], 0, 0), NO_ROW)


def _contract(origin: Origin, content: Extracted | Broken, spans: tuple[Span, ...]) -> Document | Drop:
    if isinstance(content, Broken):
        return Drop(origin, content.reason, spans=len(spans))
    whole = Origin(origin.path, origin.sha256, 0, len(content.text))
    return Document(whole, content.text, spans=spans, pages=content.pages, extractor=content.extractor)


def _quotes(record: Record, label: str) -> list[str]:
    """The cell's quotes: it holds a Python list of strings. Raises DataError where it does not."""
    cell = record.optional(label)
    try:
        quotes = ast.literal_eval(cell.strip()) if cell else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        quotes = None
    if not isinstance(quotes, list) or not all(isinstance(quote, str) for quote in quotes):
        raise DataError(
            f"{record.where}: field '{label}', string of length {len(cell or '')}, is no list of quotes such as ['a']"
        )
    return [quote for quote in quotes if quote.strip()]


def _matcher(contracts: Iterable[str]) -> Callable[[str], str | None]:
    """Finds a contract by a row's file name: by the very name, else by its letters and digits, if they tell one."""
    known: list[dict[str, set[str]]] = [defaultdict(set) for _ in range(3)]
    for contract in contracts:
        for names, key in zip(known, _keys(Path(contract).name), strict=True):
            names[key].add(contract)

    def find(name: str) -> str | None:
        for names, key in zip(known, _keys(name), strict=True):
            if len(names.get(key, ())) == 1:
                return next(iter(names[key]))
        return None

    return find


def _keys(name: str) -> tuple[str, str, str]:
    """What a name is recognised by, strictest first: itself, its letters without accents, its ASCII letters."""
    stem = normalise(ENDING.sub("", normalise(name)))
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    # an accent that was lost in one of the names took its letter with it
    ascii_only = stem.encode("ascii", "ignore").decode()
    return stem, _letters(plain), _letters(ascii_only)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _from_json(path: Path, name: str, digest: str) -> Iterator[Document]:
    """The contracts of the SQuAD form, each with the places of its passages."""
    for place, contract in enumerate(_contracts(path), 1):
        for number, (text, questions) in enumerate(_paragraphs(contract), 1):
            # a path of its own for each paragraph: its range counts in the text, which the file holds escaped
            origin = Origin(f"{name}#{place}/{number}", digest, 0, len(text))
            spans = tuple(_answers(questions, contract.where))
            title = contract.value.get("title")
            yield Document(origin, text, spans=spans, groups=(title,) if isinstance(title, str) else ())


def _json_labels(path: Path) -> tuple[str, ...]:
    labels: dict[str, None] = {}
    contract = None
    for contract in _contracts(path):
        asked = (question for _, questions in _paragraphs(contract) for question in questions)
        labels |= dict.fromkeys(_label(question, contract.where) for question in asked)
    if contract is None:
        raise DataError(f"{path} holds no contract; its 'data' must be a list of contracts")
    return tuple(labels)


def _contracts(path: Path) -> Iterator[Element]:
    return (element for element in elements(path) if element.name == "data")


def _paragraphs(contract: Element) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    try:
        for paragraph in contract.value["paragraphs"]:
            text, questions = paragraph["context"], paragraph["qas"]
            if not isinstance(text, str) or not isinstance(questions, list):
                raise TypeError
            yield text, questions
    except (KeyError, TypeError):
        raise DataError(f"{contract.where} is no contract with paragraphs of context and qas") from None


def _answers(questions: list[dict[str, Any]], where: str) -> Iterator[Span]:
    for question in questions:
        label = _label(question, where)
        try:
            answers = [(answer["text"], answer["answer_start"]) for answer in question["answers"]]
        except (KeyError, TypeError):
            raise DataError(f"{where}: an answer lacks its text or answer_start") from None
        for text, start in answers:
            # a bool is an int too
            if not isinstance(text, str) or type(start) is not int or start < 0:
                raise DataError(
                    f"{where}: an answer's text must be a string, its answer_start a whole number from 0"
                )
            yield Span(label, text, start)


def _label(question: dict[str, Any], where: str) -> str:
    """The category: the end of the id, `contract__category`."""
    name = question.get("id") if isinstance(question, dict) else None
    if not isinstance(name, str) or "__" not in name:
        raise DataError(f"{where}: a question's id is not of the form contract__category")
    return name.rpartition("__")[2]
