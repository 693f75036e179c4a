"""How a model arm answers its prompts: batch by batch, by generation or by scoring labels, each batch kept."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.answer_cache import AnswerCache, key_of, weights_of
from eval.label_scores import TREE_TOKENS, LabelSet, as_answer, label_set, score_batch
from finetune.chat import IGNORE, Renderer
from finetune.config.eval import EvalConfig, Scoring
from finetune.console import progress, say
from finetune.errors import ConfigError, DataError
from finetune.generate import Answer, by_length, greedy_batch
from finetune.model import Loaded


@dataclass(frozen=True)
class Answering:
    """How all model arms of one evaluation answer."""

    config: EvalConfig
    cache: AnswerCache | None = None
    """None: every answer is computed, and none is kept."""
    labels: LabelSet | None = None
    """Scored instead of generating, where eval.scoring=labels asks for it."""

    def generate(
        self, loaded: Loaded, prompts: Sequence[list[int]], config: EvalConfig, label: str
    ) -> list[Answer]:
        """Free answers to prompts that are no rows of the task, as `config` has it, whatever eval.scoring is."""
        return replace(self, config=config, labels=None).answer(loaded, prompts, label)

    def answer(self, loaded: Loaded, prompts: Sequence[list[int]], label: str) -> list[Answer]:
        """The answer to every prompt, in the order of the prompts; `label` names the progress."""
        lengths = [len(ids) for ids in prompts]
        behind = self._behind(max(lengths))
        batches = by_length(
            [length + behind for length in lengths], self.config.batch_rows, self.config.batch_tokens
        )
        read, answers, known = self._reader(loaded, behind), dict[int, Answer](), 0
        for batch in progress(batches, label, len(batches)):
            found, kept = read([prompts[index] for index in batch])
            known += len(batch) if kept else 0
            answers.update(zip(batch, found, strict=True))
        if known and self.cache:
            say(f"  {label}: {known} of {len(prompts)} answers were there, in {self.cache.folder}")
        return [answers[index] for index in range(len(prompts))]

    def _reader(self, loaded: Loaded, behind: int) -> Callable[[list[list[int]]], tuple[list[Answer], bool]]:
        """Gives the answers of a batch, and whether they were kept from an earlier time."""
        weights, settings = weights_of(loaded) if self.cache else None, self._settings(behind)

        def read(prompts: list[list[int]]) -> tuple[list[Answer], bool]:
            key = key_of(weights, settings, prompts) if weights else None
            found = self.cache.read(key, len(prompts)) if self.cache and key else None
            if found is not None:
                return found, True
            made = self._compute(loaded, prompts, behind)
            if self.cache and key:
                self.cache.write(key, made)
            return made, False

        return read

    def _behind(self, longest_prompt: int) -> int:
        """Positions behind each prompt: of new tokens, or of the largest tree of labels in one forward."""
        if self.labels is None:
            return self.config.max_new_tokens
        room = max(self.config.batch_tokens - longest_prompt, self.labels.longest)
        return max(len(tree.tokens) for tree in self.labels.trees(min(TREE_TOKENS, room)))

    def _settings(self, behind: int) -> dict[str, Any]:
        labels = None if self.labels is None else [self.labels.texts, self.labels.ids]
        return {"labels": labels, "behind": behind}

    def _compute(self, loaded: Loaded, prompts: list[list[int]], behind: int) -> list[Answer]:
        started = time.monotonic()
        if self.labels is None:
            answers = greedy_batch(loaded, prompts, self.config.max_new_tokens)
        else:
            answers = [
                as_answer(row, self.labels) for row in score_batch(loaded, prompts, self.labels, behind)
            ]
        share = (time.monotonic() - started) / len(prompts)
        return [replace(item, seconds=share) for item in answers]


def make_answering(
    config: EvalConfig,
    cache: AnswerCache,
    renderer: Renderer,
    test: Sequence[Mapping[str, Any]],
    vocabulary: Collection[str],
) -> Answering:
    """How the model arms answer the test rows; `vocabulary` are the labels to score, where labels are.

    Raises DataError where the rows have no closed set of labels, ConfigError where the template renders a label
    differently from row to row.
    """
    if config.scoring is Scoring.generate:
        return Answering(config, cache)
    lists = sum(not isinstance(row["target"], str) for row in test)
    if lists:
        raise DataError(
            f"eval.scoring=labels chooses one label a row, and the targets of {lists} of {len(test)} test rows are "
            "lists; use eval.scoring=generate"
        )
    labels = label_set(sorted(vocabulary), renderer, test[0]["messages"])
    known = dict(zip(labels.texts, labels.ids, strict=True))
    for row in test:
        ids = [token for token in renderer.row(row["messages"], row["target"]).labels if token != IGNORE]
        if tuple(ids) != known.get(row["target"], tuple(ids)):
            raise ConfigError(
                "the chat template renders the same answer differently from row to row, so labels have no fixed "
                "tokens; use eval.scoring=generate"
            )
    unknown = sum(row["target"] not in known for row in test)
    note = f"; {unknown} of {len(test)} test rows have none of them and cannot be right" if unknown else ""
    say(f"scoring {len(known)} labels{note}")
    return Answering(config, cache, labels)
