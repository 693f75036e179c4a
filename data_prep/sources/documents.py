"""A folder of a user's own documents, local or remote, with a table that says what was found in which file."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from posixpath import normpath

from data_prep.readers import Broken, Extracted, Record, read_table, texts
from data_prep.rows import Ask, Document, Drop, Origin, Span, Target
from data_prep.sources.source import Source, asked_labels, digests, known, place_of
from data_prep.sources.table import ask, traits
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError

UNANNOTATED = "no annotation"
NO_FILE = "annotated, but the file is missing"
NO_FOLDER = "in no folder that would name its target"
CONTRADICTED = "annotated with different targets"
LINK = "a link, not a file"
IRREGULAR = "not a regular file"
BAD_NAME = "a name that is not UTF-8"


@dataclass
class Answers:
    """What the annotations say of one file."""

    asks: dict[str, Target] = field(default_factory=dict)
    """Each question's target."""
    is_contradictory: bool = False
    spans: list[Span] = field(default_factory=list)
    groups: dict[str, None] = field(default_factory=dict)
    times: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """What a source's folder holds, by name, and the table of annotations if there is one."""

    name: str
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    """The sha256 of each file that may be read, and of the table."""
    unreadable: Mapping[str, str]
    """Why the others may not."""
    annotations: Path | None


def open_documents(data: DataConfig, paths: PathsConfig, workers: int) -> Source:
    """The files of the folder `data.source.path`. Raises DataError where there is none."""
    source = data.source
    name = str(source.path).rstrip("/")
    root = place_of(name, paths)
    table = place_of(source.annotations, paths) if source.annotations else None
    if table is not None and not table.is_file():
        raise DataError(f"{table} is not a file; put it there, or correct data.source.annotations")
    found = [path for path in _found(root, source.pattern) if table is None or _place(path) != _place(table)]
    if not found:
        raise DataError(f"{root} holds no file that data.source.pattern={source.pattern or '**/*'} matches")
    files = {f"{name}/{_shown(path.relative_to(root))}": path for path in found}
    unreadable = {inner: reason for inner, path in files.items() if (reason := _why_unreadable(path, root))}
    hashes = digests({inner: path for inner, path in files.items() if inner not in unreadable}, paths)
    if table is not None:
        hashes |= digests({str(source.annotations): table}, paths)
    folder = Folder(name, files, hashes, unreadable, table)
    return Source(name, hashes, partial(_documents, data, folder, workers), _questions(data, table))


def _found(root: Path, pattern: str | None) -> list[Path]:
    """What the folder holds but folders, in order; links are not followed."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; put it there, or set DATA_ROOT or data.source.path")
    pattern = pattern or "**/*"
    before, deep, _ = pattern.rpartition("**")
    try:
        matched = set(root.glob(pattern))
        # where a pattern descends, a linked folder hides what it would match
        linked = {path for path in root.glob(f"{before}**/*") if path.is_symlink()} if deep else set()
    except (ValueError, NotImplementedError):
        raise ConfigError(
            f"data.source.pattern={pattern} is no pattern below the folder; use one such as **/*.pdf"
        ) from None
    matched |= {path for path in linked if path.is_dir()}
    found = {_link_above(path, root) for path in matched if ".." not in path.relative_to(root).parts}
    return sorted(path for path in found if path.is_symlink() or not path.is_dir())


def _link_above(path: Path, root: Path) -> Path:
    """The first link on the way from the root to the path, else the path."""
    inner = path.relative_to(root)
    return next((root / step for step in reversed(inner.parents) if (root / step).is_symlink()), path)


def _place(path: Path) -> Path:
    """Where a file stands, however its folder was spelt."""
    return path.parent.resolve() / path.name


def _shown(inner: Path) -> str:
    """The path, with escapes for what is not UTF-8."""
    return os.fsencode(inner).decode("utf-8", "backslashreplace")


def _why_unreadable(path: Path, root: Path) -> str:
    """Why a path is not even opened: a pipe would wait for ever. Empty where it may be."""
    if path.is_symlink():
        return LINK
    if not path.is_file():
        return IRREGULAR
    inner = path.relative_to(root)
    return "" if _shown(inner) == str(inner) else BAD_NAME


def _questions(data: DataConfig, table: Path | None) -> tuple[str, ...]:
    """The labels that passages are marked with, in sorted order: of the config, or of all annotations."""
    if table is None or data.source.quote_field is None:
        return ()
    labels = {span.label for record in read_table(table, data.limits) for span in _spans(record, data)}
    return asked_labels(sorted(labels), data)


def _documents(data: DataConfig, folder: Folder, workers: int) -> Iterator[Document | Drop]:
    answers = _by_folder(data, folder) if folder.annotations is None else _answers(data, folder)
    reasons = {name: reason for name in folder.files if (reason := _why_unasked(name, folder, answers))}
    wanted = [path for name, path in folder.files.items() if name not in reasons]
    contents = texts(wanted, data.limits, workers)
    for name in folder.files:
        said = answers.get(name, Answers())
        content = Broken(reasons[name]) if name in reasons else next(contents)
        yield _document(Origin(name, folder.digests.get(name, ""), 0, 0), content, said)
    for name in sorted(answers.keys() - folder.files.keys()):
        origin = Origin(name, folder.digests[str(data.source.annotations)], 0, 0)
        yield _document(origin, Broken(NO_FILE), answers[name])


def _why_unasked(name: str, folder: Folder, answers: Mapping[str, Answers]) -> str:
    """Why a file is not read; empty where it is."""
    if name in folder.unreadable:
        return folder.unreadable[name]
    if name not in answers:
        return NO_FOLDER if folder.annotations is None else UNANNOTATED
    return CONTRADICTED if answers[name].is_contradictory else ""


def _by_folder(data: DataConfig, folder: Folder) -> dict[str, Answers]:
    """The names of the files' folders as their targets."""
    root = Path(folder.name)
    readable = [name for name in folder.files if name not in folder.unreadable]
    targets = {name: Path(name).parent.name for name in readable if Path(name).parent != root}
    for name, target in targets.items():
        known(target, data.labels, f"{name}: its folder's name")
    return {name: Answers({"": target}) for name, target in targets.items()}


def _document(origin: Origin, content: Extracted | Broken, answers: Answers) -> Document | Drop:
    if isinstance(content, Broken):
        return Drop(origin, content.reason, spans=len(answers.spans))
    return Document(
        origin=replace(origin, end=len(content.text)),
        text=content.text,
        asks=tuple(Ask(question, target) for question, target in answers.asks.items()),
        spans=tuple(answers.spans),
        groups=tuple(answers.groups),
        time=max(answers.times, default=None),
        language=next(iter(answers.languages), None),
        pages=content.pages,
        extractor=content.extractor,
    )


def _answers(data: DataConfig, folder: Folder) -> dict[str, Answers]:
    """The annotations of each file, by its name."""
    source = data.source
    found: dict[str, Answers] = defaultdict(Answers)
    for record in read_table(folder.annotations or Path(), data.limits):
        answers = found[f"{folder.name}/{_file(record, str(source.file_field))}"]
        if source.quote_field is not None:
            answers.spans += _spans(record, data)
        else:
            said = ask(record, data)
            if answers.asks.setdefault(said.question, said.target) != said.target:
                answers.is_contradictory = True
        groups, time, language = traits(record, source)
        answers.groups |= dict.fromkeys(groups)
        answers.times += [time] if time else []
        answers.languages += [language] if language else []
    return dict(found)


def _file(record: Record, field_name: str) -> str:
    """The file that a record annotates, by its path in the folder. Raises DataError where it is outside."""
    name = normpath(record.text(field_name).strip())
    if name.split("/")[0] == "..":
        raise DataError(
            f"{record.where}: field '{field_name}' names a file outside data.source.path; name one below it"
        )
    return name


def _spans(record: Record, data: DataConfig) -> list[Span]:
    """The passage that a record marks, under each of its labels; none where its quote is empty: nothing was found."""
    source = data.source
    quote = record.optional(str(source.quote_field))
    if quote is None:
        return []
    labels = record.labels(str(source.target_field), source.target_separator)
    return [Span(label, quote) for label in ([labels] if isinstance(labels, str) else labels)]
