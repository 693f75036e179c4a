"""Who answers: the adapter, the same base without it, and two floors that need no GPU."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval.answers import Answering
from finetune.chat import IGNORE, render_answer
from finetune.config.eval import Scoring
from finetune.console import say
from finetune.errors import RefusedError
from finetune.generate import Answer
from finetune.model import Loaded

ADAPTER, BASE, MAJORITY, SVM = "adapter", "base", "majority", "svm"

Rows = Sequence[Mapping[str, Any]]


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
    classifier.fit([_question(row) for row in train], targets)
    return [Answer(str(found), None, ()) for found in classifier.predict([_question(row) for row in test])]


def models(loaded: Loaded, answering: Answering, test: Rows) -> dict[str, list[Answer]]:
    """The answers of base and adapter.

    One process, one set of 4-bit weights, the same prompts and batches: only the adapter differs.
    """
    prompts = [loaded.renderer.prompt_ids(row["messages"]) for row in test]
    config = answering.config
    if config.scoring is Scoring.generate:
        _require_room(loaded, test, config.max_new_tokens)
    with loaded.model.disable_adapter():
        of_base = answering.answer(loaded, prompts, BASE)
    of_adapter = answering.answer(loaded, prompts, ADAPTER)
    found = {BASE: of_base, ADAPTER: of_adapter}
    told = ", ".join(f"{arm} {count}" for arm, count in cut(found).items())
    say(f"answers cut at eval.max_new_tokens={config.max_new_tokens}: {told}")
    return found


def cut(models: Mapping[str, Sequence[Answer]]) -> dict[str, int]:
    """How many answers of each model arm reached eval.max_new_tokens before an end token."""
    return {arm: sum(item.cut for item in answers) for arm, answers in models.items()}


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


def _question(row: Mapping[str, Any]) -> str:
    return str(row["messages"][-1]["content"])
