"""The suites of general abilities: their files, their items, their prompts."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.forgetting.instructions import ARGUMENTS, CHECKS
from finetune.config.eval import ForgettingConfig, Suite
from finetune.errors import DataError
from finetune.rows import json_lines

LETTERS = "ABCDEFGHIJKLMNOP"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
OWN = Path(__file__).parent
INSTRUCTIONS, CHOICE, ANSWER = "instructions", "choice", "answer"
NEEDS_LANGUAGE = "language:response_language"
NO_DETECTOR = "needs a language detector"

Record = Mapping[str, Any]
Gold = list[tuple[str, Record]] | int | str


@dataclass(frozen=True)
class Item:
    """One prompt and what is right: instructions with their arguments, the index of a choice, or a text."""

    id: str
    subject: str
    prompt: str
    gold: Gold
    choices: int = 0
    """Of kind=choice: how many there are; 0 otherwise."""


@dataclass(frozen=True)
class Source:
    """Where a suite's items come from, how they are read and answered."""

    file: str
    kind: str
    max_new_tokens: int
    """Enough for a right answer; 0 where none is generated."""
    read: Callable[[str, Record], Item | str]
    """One record, whose place in the file is named first, as an item; or why it is left out."""
    own: bool = False


@dataclass(frozen=True)
class Opened:
    """The items of a suite, and why others of its file were left out, by reason."""

    items: list[Item]
    left_out: dict[str, int]


def path_of(suite: Suite, config: ForgettingConfig, data_root: str) -> Path | None:
    """The suite's file; None where it needs eval.forgetting.folder and that is not set."""
    source = SOURCES[suite]
    if source.own:
        return OWN / source.file
    return None if config.folder is None else Path(data_root).expanduser() / config.folder / source.file


def open_suite(suite: Suite, path: Path, rows: int | None, seed: int) -> Opened:
    """At most `rows` of a suite's items. Raises DataError naming file, line and field where one is broken."""
    source = SOURCES[suite]
    found = [source.read(place, record) for place, record in _records(path, source.own)]
    items = [item for item in found if isinstance(item, Item)]
    reasons = [item for item in found if isinstance(item, str)]
    if not items:
        raise DataError(
            f"{path} has no usable items; replace it, or take the suite out of eval.forgetting.suites"
        )
    return Opened(
        sample(items, rows, seed), {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    )


def sample(items: Sequence[Item], rows: int | None, seed: int) -> list[Item]:
    """At most `rows` items, as evenly from the subjects as they allow, in the order of the file."""
    if rows is None or rows >= len(items):
        return list(items)
    source = np.random.default_rng(seed)
    subjects: dict[str, list[int]] = {}
    for index in source.permutation(len(items)):
        subjects.setdefault(items[index].subject, []).append(int(index))
    rounds = range(max(map(len, subjects.values())))
    order = [found[turn] for turn in rounds for found in subjects.values() if turn < len(found)]
    return [items[index] for index in sorted(order[:rows])]


def _records(path: Path, own: bool) -> Iterator[tuple[str, Record]]:
    """Each record with its place in the file."""
    if own:
        import yaml

        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        yield from ((f"{path}: item {number}", record) for number, record in enumerate(listed, 1))
        return
    yield from json_lines(path)


def _field(place: str, record: Record, name: str, kind: type) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or value in ("", []):
        raise DataError(
            f"{place}: field '{name}' is {type(value).__name__}; it must be a filled {kind.__name__}"
        )
    return value


def _own_instruction(place: str, record: Record) -> Item:
    """`{ask: prompt, <check>: {arguments}}`, one check an item."""
    prompt = _field(place, record, "ask", str)
    checks = [(name, given or {}) for name, given in record.items() if name != "ask"]
    return Item(place, checks[0][0], prompt, _checked(place, checks))


def _own_choice(number_of: Callable[[str], int], place: str, record: Record) -> Item:
    """`{ask, right, wrong: [...]}`; the right choice stands at a place that turns from item to item."""
    wrong = _field(place, record, "wrong", list)
    gold = number_of(place) % (len(wrong) + 1)
    choices = [*map(str, wrong)]
    choices.insert(gold, str(record["right"]))
    return Item(place, "", choice_prompt(_field(place, record, "ask", str), choices), gold, len(choices))


def _ifeval(place: str, record: Record) -> Item | str:
    names = _field(place, record, "instruction_id_list", list)
    if NEEDS_LANGUAGE in names:
        return NO_DETECTOR
    given = _field(place, record, "kwargs", list)
    if len(given) != len(names):
        raise DataError(f"{place}: field 'kwargs' has {len(given)} entries for {len(names)} instructions")
    checks = _checked(place, list(zip(names, given, strict=True)))
    return Item(str(record.get("key")), names[0], _field(place, record, "prompt", str), checks)


def _checked(place: str, checks: Sequence[tuple[str, Record]]) -> list[tuple[str, Record]]:
    for name, given in checks:
        if name not in CHECKS:
            raise DataError(f"{place}: '{name}' is no instruction that can be checked")
        for argument, kind in ARGUMENTS.get(name, {}).items():
            _field(place, given, argument, kind)
    return list(checks)


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """A question with lettered choices, which asks for the letter."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}\n{listed}\nAnswer with the letter alone."


def _mmlu(place: str, record: Record) -> Item:
    subject, choices = _field(place, record, "subject", str), _field(place, record, "choices", list)
    gold = _field(place, record, "answer", int)
    if not 0 <= gold < len(choices) <= len(LETTERS):
        raise DataError(f"{place}: field 'answer' is none of the {len(choices)} choices, counted from 0")
    question = f"A question about {subject.replace('_', ' ')}.\n{_field(place, record, 'question', str)}"
    return Item(place, subject, choice_prompt(question, [*map(str, choices)]), gold, len(choices))


def _bbh(place: str, record: Record) -> Item:
    prompt = f"{_field(place, record, 'input', str)}\n\nGive only the final answer."
    return Item(place, _field(place, record, "task", str), prompt, _field(place, record, "target", str))


def _gsm8k(place: str, record: Record) -> Item:
    gold = _field(place, record, "answer", str).rpartition("####")[2].strip()
    if not NUMBER.fullmatch(gold):
        raise DataError(f"{place}: field 'answer' does not end with a number behind ####")
    question = _field(place, record, "question", str)
    return Item(place, "", f"{question}\nThink step by step and end with the answer, a number.", gold)


def _item_number(place: str) -> int:
    return int(place.rpartition(" ")[2])


SOURCES: Mapping[Suite, Source] = {
    Suite.own_instructions: Source("own_instructions.yaml", INSTRUCTIONS, 64, _own_instruction, own=True),
    Suite.own_knowledge: Source(
        "own_knowledge.yaml", CHOICE, 0, partial(_own_choice, _item_number), own=True
    ),
    Suite.ifeval: Source("ifeval_540.jsonl", INSTRUCTIONS, 1280, _ifeval),
    Suite.mmlu: Source("mmlu_570.jsonl", CHOICE, 0, _mmlu),
    Suite.bbh: Source("bbh_270.jsonl", ANSWER, 64, _bbh),
    Suite.gsm8k: Source("gsm8k_200.jsonl", ANSWER, 400, _gsm8k),
}
