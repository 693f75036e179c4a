"""Which answers to a suite's items are right."""

import re
from collections.abc import Sequence
from decimal import Decimal

from eval.forgetting.instructions import follows
from eval.forgetting.suites import LETTERS, NUMBER, Item
from finetune.chat import IGNORE, Encoded
from finetune.config.eval import EvalConfig, Suite
from finetune.generate import answer_logits
from finetune.model import Loaded

OPTION = re.compile(r"\(?([A-Z])(?:[).:,]|\s|$)")


def right(suite: Suite, item: Item, answer: str) -> list[float]:
    """1 for each thing asked of an item that the answer gets right, else 0: one, or one an instruction."""
    if isinstance(item.gold, list):
        return [float(follows(name, answer, given)) for name, given in item.gold]
    same = is_number if suite is Suite.gsm8k else is_answer
    return [float(same(answer, str(item.gold)))]


def is_number(answer: str, gold: str) -> bool:
    """Whether the last number of the answer, behind `####` where it has that, is the gold one."""
    found = NUMBER.findall(answer.rpartition("####")[2]) or NUMBER.findall(answer)
    return bool(found) and _value(found[-1]) == _value(gold)


def is_answer(answer: str, gold: str) -> bool:
    """Whether the answer is the gold one: case, spaces, quotes, a full stop and `the answer is` aside.

    Of a lettered option the letter counts, with or without brackets and whatever stands behind it.
    """
    said = re.split(r"answer is:?", answer, flags=re.IGNORECASE)[-1].strip().strip("*`\"'").strip()
    if re.fullmatch(r"\([A-Z]\)", gold):
        found = OPTION.match(said)
        return found is not None and found[1] == gold[1]
    return _plain(said) == _plain(gold)


def choose(loaded: Loaded, items: Sequence[Item], config: EvalConfig, label: str) -> list[int] | None:
    """The choice whose letter is the likeliest first token of an answer, of every item.

    None where the tokenizer does not tell the letters apart by their first token.
    """
    letters = [loaded.renderer.encode(letter)[0] for letter in LETTERS[: max(item.choices for item in items)]]
    if len(set(letters)) < len(letters):
        return None
    # the logits of the first answer token do not depend on which one stands there
    rows = [Encoded([*ids, letters[0]], [IGNORE] * len(ids) + [letters[0]]) for ids in prompts(loaded, items)]
    found = {
        index: int(logits[0][letters[: items[index].choices]].argmax())
        for index, logits in answer_logits(loaded, rows, config.batch_rows, label)
    }
    return [found[index] for index in range(len(items))]


def prompts(loaded: Loaded, items: Sequence[Item]) -> list[list[int]]:
    """Each item as the user's only turn."""
    return [loaded.renderer.prompt_ids([{"role": "user", "content": item.prompt}]) for item in items]


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", "").lstrip("$"))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
