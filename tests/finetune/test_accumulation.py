"""One step of 8 rows is one step, however many rows a forward pass takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import loaded_model

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, TrainConfig
from finetune.dataset import encode_rows
from finetune.trainer import make_trainer

CPU = HardwareConfig("cpu", Device.cpu)
TRAIN = TrainConfig(
    max_steps=4, global_batch=8, micro_batch=8, lr=1e-2, log_every_steps=1, checkpointing=Checkpointing.none
)
ROWS = [
    {
        "id": f"r{number}",
        "group": "g",
        "messages": [{"role": "user", "content": "word " * (1 + number % 7)}],
        "target": "a" if number % 2 else "a long answer of many more tokens " * (1 + number % 3),
    }
    for number in range(32)
]


Trained = tuple[list[float], list[float], dict[str, Any]]


def trained(folder: Path, out: Path, train: TrainConfig) -> Trained:
    """Losses, gradient norms and the adapter after 4 steps, all of it computed in fp32."""
    loaded = loaded_model(folder, quantised=False)
    loaded.model.float()
    trainer = make_trainer(loaded, encode_rows(ROWS, loaded.renderer, train), train, CPU, out)
    trainer.accelerator.native_amp = False  # no autocast to bf16
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    weights = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return [row["loss"] for row in history], [row["grad_norm"] for row in history], weights


@pytest.fixture(scope="module")
def at_once(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tiny_model_folder, tmp_path_factory.mktemp("at_once"), TRAIN)


@pytest.mark.parametrize(("micro_batch", "packing"), [(1, False), (2, True)])
def test_accumulated_steps_are_those_of_one_forward_pass(
    micro_batch: int, packing: bool, at_once: Trained, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The loss is a mean over the trained tokens of the whole step, not a mean of the micro-batches' means.

    Trainer counts the trained tokens of all micro-batches first (num_items_in_batch) and TRL divides each one's sum
    by that. What is left is the order of fp32 sums, 1e-7 of a value in the first step. Adam's first steps are near
    sign(gradient) * lr, and where a gradient is as small as that rounding a weight may move otherwise by up to
    lr = 1e-2; so losses and norms are held to 1e-4, and the weights on average.
    """
    losses, norms, weights = at_once
    accumulated = trained(
        tiny_model_folder, tmp_path, replace(TRAIN, micro_batch=micro_batch, packing=packing)
    )
    assert len(losses) == 4
    torch.testing.assert_close(accumulated[0], losses, atol=1e-4, rtol=0)
    torch.testing.assert_close(accumulated[1], norms, atol=0, rtol=1e-3)
    apart = [(accumulated[2][name] - weight).abs().mean().item() for name, weight in weights.items()]
    assert max(apart) < 1e-5


def test_a_mean_of_the_micro_batches_means_would_be_seen(
    at_once: Trained, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The rows' numbers of trained tokens differ so much that the wrong mean lies 100 tolerances away."""
    loaded = loaded_model(tiny_model_folder, quantised=False)
    loaded.model.float()
    data = encode_rows(ROWS, loaded.renderer, TRAIN)
    trainer = make_trainer(loaded, data, TRAIN, CPU, tmp_path)
    sums, counts = [], []
    with torch.no_grad():
        for index in data.order[:8]:
            row = data.rows[index]
            batch = {"input_ids": torch.tensor([row.ids]), "labels": torch.tensor([row.labels])}
            count = sum(label != -100 for label in row.labels)
            sums.append(trainer.model(**batch, use_cache=False).loss.item() * count)
            counts.append(count)
    tokens = sum(sums) / sum(counts)
    means = sum(total / count for total, count in zip(sums, counts, strict=True)) / 8
    assert abs(tokens - means) > 5e-3
    assert at_once[0][0] == pytest.approx(tokens, abs=1e-4)
