"""What the licences want to travel with the weights: their texts, a NOTICE, and what must be shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import Output
from finetune.base import legal_texts
from finetune.config.folders import conf_folders
from finetune.errors import DataError
from finetune.licences import Licence, binding

NOTICE = "NOTICE"
TEXTS = "licences"
"""Subfolder with the texts of the licences of data and teacher models."""


@dataclass(frozen=True)
class Legal:
    """What an export says of rights: every licence that binds it, the base's first, and whom it thanks."""

    licences: Sequence[Licence]
    base: str
    """The base's public name."""
    data: Mapping[str, Mapping[str, str]]
    """Each data set's `licence`, `attribution` and, where a model wrote it, `teacher_licence`."""

    @property
    def displays(self) -> list[str]:
        """Texts to show where the model is offered."""
        return [licence.display for licence in binding(self.licences) if licence.display]

    @property
    def notices(self) -> list[str]:
        """Texts that the licences prescribe for the NOTICE, word for word."""
        return [licence.notice for licence in binding(self.licences) if licence.notice]


def legal_of(
    licences: Sequence[Licence], base: str, data: Any, mix: Mapping[str, Mapping[str, str]]
) -> Legal:
    """`data`: the manifest of the main data set; `mix`: what the adapter's manifest says of those mixed in."""
    section = data.config["data"]
    main = {key: section.get(key) or "" for key in ("licence", "attribution", "teacher_licence")}
    return Legal(licences, base, {data.name: main, **mix})


def write_licences(legal: Legal, base: Path, change: str, output: Output) -> None:
    """Write the base's texts as they came, the others' below licences/, and NOTICE; `change` says what was changed.

    Raises DataError where the base's folder lacks a text that its licence wants along.
    """
    texts = {path.name: path for path in legal_texts(base)}
    lacking = [name for name in legal.licences[0].ships if not _is_there(name, texts)]
    if lacking:
        raise DataError(
            f"{base} lacks {', '.join(lacking)}, which {legal.licences[0].title} ({legal.licences[0].clause}) wants "
            "along; put it beside the base's weights and run `make fetch-base CONF=…`"
        )
    for name, path in texts.items():
        output.copy(path, name)
    for licence in legal.licences[1:]:
        found = text_of(licence)
        if found is not None:
            output.copy(found, f"{TEXTS}/{licence.id}.txt")
    own = texts[NOTICE].read_text(encoding="utf-8", errors="replace") if NOTICE in texts else ""
    output.write_text(NOTICE, "\n\n".join(_notice(legal, change, own)) + "\n")


def text_of(licence: Licence) -> Path | None:
    """The text that stands beside a licence's record; None: its record says where to read it."""
    files = [root / "licence" / f"{licence.id}.txt" for root in conf_folders()]
    return next((path for path in files if path.is_file()), None)


def _is_there(name: str, texts: Mapping[str, Path]) -> bool:
    stem = name.upper().partition(".")[0].replace("LICENCE", "LICENSE")
    return any(text.upper().replace("LICENCE", "LICENSE").startswith(stem) for text in texts)


def _notice(legal: Legal, change: str, own: str) -> Iterator[str]:
    """The paragraphs of NOTICE."""
    yield change
    yield from legal.notices
    for display in legal.displays:
        yield f'Show "{display}" prominently where the model is offered or described.'
    policies = [
        name for licence in binding(legal.licences) for name in licence.ships if "POLICY" in name.upper()
    ]
    if policies:
        yield f"Whoever uses or passes on the model is bound by {', '.join(dict.fromkeys(policies))} as well."
    for name, of in legal.data.items():
        thanks = f": {of['attribution']}" if of["attribution"] else ""
        teacher = f", written by a model under {of['teacher_licence']}" if of.get("teacher_licence") else ""
        yield f"Trained on {name}{thanks}, changed to rows of prompts and answers. Licence: {of['licence']}{teacher}."
    for licence in legal.licences:
        place = f"{TEXTS}/{licence.id}.txt" if text_of(licence) else licence.source
        where = "in this folder" if licence is legal.licences[0] else place
        yield f"{licence.title} ({licence.id}): {where}"
    if own:
        yield f"The base's own NOTICE:\n\n{own.strip()}"
