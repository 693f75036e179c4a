"""How sure transformers was where a server first answers otherwise, on a 2-layer Llama."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from eval.answers import Answering
from eval.serving.client import Reply
from eval.serving.reference import _divergences
from eval.serving.replay import Replay
from finetune.config.eval import EvalConfig

PROMPTS = [[7, 8, 9, 10], [11, 12, 13, 14, 15, 16], [20, 21]]


def test_the_margin_is_the_gap_to_the_servers_token_where_they_part(tiny_model_folder: Path) -> None:
    loaded = tiny.loaded_model(tiny_model_folder, quantised=False)
    answers = Answering(EvalConfig(primary="x", max_new_tokens=6)).answer(loaded, PROMPTS, "test")
    same = [Reply("", item.ids, (-1.0,) * len(item.ids), "length", 0.1) for item in answers]
    assert _divergences(loaded, PROMPTS, answers, Replay(1, same, 1.0)) == []
    own = answers[1].ids[3]
    other = (own + 1) % 100
    replies = [
        same[0],
        replace(same[1], ids=(*answers[1].ids[:3], other, 5, 5)),
        replace(same[2], ids=answers[2].ids[:4]),
    ]
    changed, ended = _divergences(loaded, PROMPTS, answers, Replay(1, replies, 1.0))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*PROMPTS[1], *answers[1].ids[:3]]])).logits[0, -1].float()
    assert (changed.row, changed.position) == (1, 3)
    assert changed.margin == pytest.approx(float((logits[own] - logits[other]).abs()), abs=0.1)  # bf16
    assert (ended.row, ended.position, ended.margin) == (2, 4, math.inf)
