"""What the base could and the adapter no longer can: suites of general abilities, asked of both (docs/lost.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.forgetting.scoring import choose, prompts, right
from eval.forgetting.suites import CHOICE, SOURCES, Opened, open_suite, path_of
from eval.forgetting.verdicts import Scored, record, skipped, together
from finetune.artifacts.hashing import HashCache, content_of
from finetune.config.eval import EvalConfig, Suite
from finetune.config.schema import PathsConfig
from finetune.console import say
from finetune.errors import ConfigError
from finetune.generate import Answer
from finetune.model import Loaded

Generate = Callable[[Loaded, Sequence[list[int]], EvalConfig, str], list[Answer]]
"""Free answers to prompts, in their order: eval.answers.Answering.generate."""
NO_LETTERS = "the tokenizer writes two letters with the same first token"


@dataclass(frozen=True)
class Asked:
    """One arm's answers to a suite: for each item 1 or 0 for each thing asked, and how many were cut."""

    scores: list[list[float]]
    cut: int


def measure(
    loaded: Loaded, generate: Generate, config: EvalConfig, paths: PathsConfig
) -> dict[str, Any] | None:
    """The section `forgetting` of report.json; None where eval.forgetting.suites is empty.

    Base and adapter answer in this process, on the same 4-bit weights, the same prompts and batches. A suite whose
    file is not there is `skipped`, with the reason. Raises DataError where a file is broken.
    """
    found = [
        _measure(suite, loaded, generate, config, paths) for suite in dict.fromkeys(config.forgetting.suites)
    ]
    return {"suites": together(found, config)} if found else None


def records(config: EvalConfig, paths: PathsConfig) -> dict[str, dict[str, str]]:
    """What a report's manifest names as inputs: the suites' files, so that another item makes another report.

    Raises ConfigError where a suite that must not fall cannot be asked: its margin would pass unseen.
    """
    cache, found = HashCache(Path(paths.artifacts_root), paths.rehash), {}
    for suite in dict.fromkeys(config.forgetting.suites):
        path = path_of(suite, config.forgetting, paths.data_root)
        if path is not None and path.is_file():
            content = content_of([{"path": path.name, "sha256": cache.digest(path)}])
            found[f"suite {suite.name}"] = {
                "stage": "suite",
                "name": suite.name,
                "run": "",
                "content": content,
            }
        elif suite.name in config.forgetting.margins:
            raise ConfigError(
                f"eval.forgetting.margins names {suite.name}, and {_absence(suite, path)}; put "
                f"{SOURCES[suite].file} there, or take the margin out"
            )
    cache.save()
    return found


def _measure(
    suite: Suite, loaded: Loaded, generate: Generate, config: EvalConfig, paths: PathsConfig
) -> dict[str, Any]:
    path = path_of(suite, config.forgetting, paths.data_root)
    kind = SOURCES[suite].kind
    if path is None or not path.is_file():
        reason = _absence(suite, path)
        say(f"suite {suite.name} is skipped: {reason}")
        return skipped(suite.name, kind, reason)
    opened = open_suite(suite, path, config.forgetting.rows, config.seed)
    for reason, count in opened.left_out.items():
        say(f"suite {suite.name}: {count} items left out, {reason}")
    with loaded.model.disable_adapter():
        base = _ask(suite, opened, loaded, generate, config, "base")
    adapter = _ask(suite, opened, loaded, generate, config, "adapter")
    if base is None or adapter is None:
        say(f"suite {suite.name} is skipped: {NO_LETTERS}")
        return skipped(suite.name, kind, NO_LETTERS)
    scored = Scored(suite.name, kind, base.scores, adapter.scores, _chance(opened), opened.left_out)
    return record(scored, config) | {"cut_base": base.cut, "cut_adapter": adapter.cut}


def _absence(suite: Suite, path: Path | None) -> str:
    if path is None:
        return "eval.forgetting.folder is not set"
    return f"{SOURCES[suite].file} is not in eval.forgetting.folder"


def _ask(
    suite: Suite, opened: Opened, loaded: Loaded, generate: Generate, config: EvalConfig, arm: str
) -> Asked | None:
    """None where the letters of a choice cannot be told apart."""
    items, label = opened.items, f"{arm} on {suite.name}"
    if SOURCES[suite].kind == CHOICE:
        chosen = choose(loaded, items, config, label)
        if chosen is None:
            return None
        return Asked([[float(index == item.gold)] for index, item in zip(chosen, items, strict=True)], 0)
    limit = min(config.forgetting.max_new_tokens, SOURCES[suite].max_new_tokens)
    answers = generate(loaded, prompts(loaded, items), replace(config, max_new_tokens=limit), label)
    scores = [right(suite, item, found.text) for item, found in zip(items, answers, strict=True)]
    return Asked(scores, sum(found.cut for found in answers))


def _chance(opened: Opened) -> float:
    """What guessing reaches: one of the choices, else nothing."""
    return sum(1 / item.choices for item in opened.items if item.choices) / len(opened.items)
