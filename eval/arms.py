"""Who answers: one 4-bit base with and without the adapter, with and without examples, and floors without a GPU."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from eval.answers import Answering
from eval.retrieve import Examples, with_examples
from finetune.chat import IGNORE, render_answer
from finetune.config.eval import Arm, EvalConfig, Scoring
from finetune.config.eval_checks import delivered
from finetune.console import say
from finetune.errors import DataError, RefusedError
from finetune.generate import Answer
from finetune.model import CHAMPION, Loaded, activated
from finetune.rows import question_of

BASE, FEW_SHOT, ADAPTER, ADAPTER_FEW_SHOT, MAJORITY, SVM, MERGED, SERVED = (arm.name for arm in Arm)
ALL = (BASE, FEW_SHOT, ADAPTER, ADAPTER_FEW_SHOT, CHAMPION, MAJORITY, SVM, MERGED, SERVED)
"""In the order of a report."""
ZERO_SHOT = (BASE, ADAPTER, CHAMPION)
WITH_EXAMPLES = (FEW_SHOT, ADAPTER_FEW_SHOT)
WITHOUT_ADAPTER = (BASE, FEW_SHOT)

Rows = Sequence[Mapping[str, Any]]
Prompts = list[list[int]]


@dataclass
class Answered:
    """What the model arms answered, by arm, and what there is to count of it."""

    prompts: Prompts
    """Of the test rows, without examples."""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)

    def add(self, arm: str, answers: list[Answer]) -> None:
        """One more arm, whose weights stand elsewhere. Raises DataError where they are broken."""
        require_numbers(arm, answers)
        self.answers[arm] = answers
        self.counts["answers_cut"][arm] = sum(item.cut for item in answers)


def names(config: EvalConfig) -> list[str]:
    """The arms of an evaluation in the order of their report; what was delivered is compared with the adapter."""
    chosen = {arm.name for arm in config.arms} | ({CHAMPION} if config.against else set())
    chosen |= {ADAPTER} if delivered(config) else set()
    return [name for name in ALL if name in chosen]


def floors(config: EvalConfig, train: Rows, test: Rows) -> dict[str, list[Answer]]:
    """The answers of the floors that were asked for."""
    asked = names(config)
    found = {MAJORITY: majority(train, test)} if MAJORITY in asked else {}
    return found | ({SVM: svm(train, test, config.seed)} if SVM in asked else {})


def majority(train: Rows, test: Rows) -> list[Answer]:
    """The most frequent target of the training rows, for every row; on a tie the one that stands first."""
    most = Counter(render_answer(row["target"]) for row in train).most_common(1)[0][0]
    return [Answer(most, None, ()) for _ in test]


def svm(train: Rows, test: Rows, seed: int) -> list[Answer]:
    """TF-IDF over words (1-2) and characters (2-5) of the user's message, into a linear SVM."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    targets = [render_answer(row["target"]) for row in train]
    if len(set(targets)) == 1:
        return majority(train, test)  # LinearSVC refuses a single class
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    )
    classifier = make_pipeline(features, LinearSVC(random_state=seed))
    classifier.fit([question_of(row) for row in train], targets)
    return [Answer(str(found), None, ()) for found in classifier.predict([question_of(row) for row in test])]


def models(loaded: Loaded, answering: Answering, train: Rows, test: Rows) -> Answered:
    """The answers of base, adapter and champion, without examples and with them.

    One process, one set of 4-bit weights, the same rows and batches: only adapter and prompt differ.
    """
    config, asked = answering.config, names(answering.config)
    if config.scoring is Scoring.generate:
        _require_room(loaded, test, config.max_new_tokens)
    found = Answered([loaded.renderer.prompt_ids(row["messages"]) for row in test])
    prompts = dict.fromkeys(ZERO_SHOT, found.prompts)
    if set(WITH_EXAMPLES) & set(asked):
        few, found.counts["examples"] = few_shot_prompts(loaded, config, train, test)
        prompts |= dict.fromkeys(WITH_EXAMPLES, few)
    for arm in asked:
        if arm in prompts:
            with _weights(loaded, arm):
                found.answers[arm] = answering.answer(loaded, prompts[arm], arm)
            require_numbers(arm, found.answers[arm])
    found.counts["answers_cut"] = {arm: sum(item.cut for item in made) for arm, made in found.answers.items()}
    told = ", ".join(f"{arm} {count}" for arm, count in found.counts["answers_cut"].items())
    say(f"answers cut at eval.max_new_tokens={config.max_new_tokens}: {told}")
    return found


def few_shot_prompts(
    loaded: Loaded, config: EvalConfig, train: Rows, test: Rows
) -> tuple[Prompts, dict[str, int]]:
    """The test rows' prompts with the training rows most like each, and how many examples these show and lack.

    Examples whose text holds the template's marks, such as <|im_end|>, are never shown: they would end their turn.
    """
    clean = [row for row in train if not loaded.renderer.marks_in(_texts(row))]
    most = (loaded.context_tokens() or math.inf) - config.max_new_tokens
    examples = Examples(clean) if clean else None
    found = [
        with_examples(
            loaded.renderer,
            row,
            examples.nearest(row, config.shots) if examples else [],
            lambda prompt, shots: prompt <= most and shots <= config.shot_tokens,
        )
        for row in test
    ]
    counts = {
        "shown": sum(item.shown for item in found),
        "dropped": sum(item.dropped for item in found),
        "rows_without": sum(not item.shown for item in found),
        "marked": len(train) - len(clean),
    }
    say(
        f"examples in the prompts: {counts['shown']} shown, {counts['dropped']} dropped beyond eval.shot_tokens="
        f"{config.shot_tokens} or the model's context, {counts['rows_without']} of {len(test)} rows without any; "
        f"{counts['marked']} training rows hold the template's marks and are not shown"
    )
    return [item.ids for item in found], counts


def require_numbers(arm: str, answers: Sequence[Answer]) -> None:
    """Raise DataError where an arm's answer has a confidence that is no number: its weights are broken."""
    broken = sum(item.confidence is not None and not math.isfinite(item.confidence) for item in answers)
    if broken:
        raise DataError(
            f"{broken} of {len(answers)} answers of {arm} have a confidence that is no number (NaN): weights of the "
            "adapter or base hold NaN or overflow; train again with a lower train.lr, or fetch the base anew"
        )


@contextmanager
def _weights(loaded: Loaded, arm: str) -> Iterator[None]:
    """The weights of an arm: the base alone, or with one adapter."""
    if arm in WITHOUT_ADAPTER:
        with loaded.model.disable_adapter():
            yield
    else:
        with activated(loaded, CHAMPION if arm == CHAMPION else None):
            yield


def _require_room(loaded: Loaded, test: Rows, max_new_tokens: int) -> None:
    """Refuse where a right answer would be cut: it would count as wrong and nothing would say so."""
    longest = max(
        sum(label != IGNORE for label in loaded.renderer.row(row["messages"], row["target"]).labels)
        for row in test
    )
    if longest > max_new_tokens:
        raise RefusedError(
            f"a gold answer has {longest} tokens but eval.max_new_tokens={max_new_tokens}; "
            f"set eval.max_new_tokens={longest} or more"
        )


def _texts(row: Mapping[str, Any]) -> list[str]:
    return [*(str(turn["content"]) for turn in row["messages"]), render_answer(row["target"])]
