"""How a model arm answers its prompts."""

from collections.abc import Sequence

from finetune.config.eval import EvalConfig
from finetune.generate import Answer, greedy
from finetune.model import Loaded


def answer(loaded: Loaded, prompts: Sequence[list[int]], config: EvalConfig, label: str) -> list[Answer]:
    """The model's answer to every prompt, in the order of the prompts; `label` names the progress."""
    return greedy(loaded, prompts, config.batch_rows, config.max_new_tokens, label)
