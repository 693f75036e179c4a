"""How a model arm answers its prompts."""

import time
from collections.abc import Sequence
from dataclasses import replace

from finetune.config.eval import EvalConfig
from finetune.generate import Answer, greedy
from finetune.model import Loaded


def answer(loaded: Loaded, prompts: Sequence[list[int]], config: EvalConfig, label: str) -> list[Answer]:
    """The model's answer to every prompt, in the order of the prompts; `label` names the progress."""
    started = time.monotonic()
    answers = greedy(loaded, prompts, config.batch_rows, config.max_new_tokens, label)
    share = (time.monotonic() - started) / max(1, len(prompts))
    return [replace(item, seconds=share) for item in answers]
