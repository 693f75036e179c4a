"""Validation between the steps of a real run on the 2-layer Llama."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
import torch
from transformers import TrainerCallback

from finetune.chat import IGNORE, Encoded
from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing, LoraSettings, TrainConfig
from finetune.dataset import encode_rows
from finetune.errors import ConfigError
from finetune.model import Loaded
from finetune.trainer import make_trainer
from finetune.trial_run import tracked
from finetune.validation import exact_match, validation_loss

CPU = HardwareConfig("cpu", Device.cpu)
TRAIN = TrainConfig(
    max_steps=3,
    global_batch=4,
    micro_batch=2,
    lr=1e-2,
    checkpointing=Checkpointing.none,
    lora=LoraSettings(rank=4, dropout=0.1),
)
ROWS = [
    {
        "id": str(index),
        "group": "g",
        "messages": [{"role": "user", "content": f"{'word ' * (index % 5)}row {index}"}],
        "target": "yes" if index % 3 else "certainly not",
    }
    for index in range(12)
]


def trainer_of(
    folder: Path, out: Path, train: TrainConfig = TRAIN, quantised: bool = True
) -> tuple[Any, Loaded]:
    """A trainer and its model as validation takes it."""
    loaded = tiny.loaded_model(folder, quantised)
    trainer = make_trainer(loaded, encode_rows(ROWS, loaded.renderer, train), train, CPU, out)
    return trainer, Loaded(trainer.model, loaded.tokenizer, loaded.renderer)


def encoded(loaded: Loaded) -> list[Encoded]:
    return [loaded.renderer.row(row["messages"], row["target"]) for row in ROWS]


def by_hand(network: Any, rows: list[Encoded]) -> tuple[float, int]:
    """The mean over trained tokens, one row after the other, from the logits of all positions in fp64."""
    total, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            chances = network.eval()(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        for place, label in enumerate(row.labels):
            if label != IGNORE:
                total -= float(chances[place - 1, label])
                tokens += 1
    return total / tokens, tokens


def test_the_loss_is_the_mean_over_trained_tokens_at_any_batch(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer, loaded = trainer_of(tiny_model_folder, tmp_path, quantised=False)
    network = trainer.model.float()  # not trained yet: accelerate would put an autocast around it
    for name, value in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    rows = encoded(loaded)
    means = [validation_loss(network, rows, count, 1000, mixed=False) for count in (1, 3, 8)]
    expected, tokens = by_hand(network, rows)
    assert {found.tokens for found in means} == {tokens}
    assert [found.loss for found in means] == pytest.approx([expected] * 3, abs=1e-5)
    # the mean of the rows' means is another number: the answers differ in length
    rowwise = sum(by_hand(network, [row])[0] for row in rows) / len(rows)
    assert abs(rowwise - expected) > 1e-3


def test_under_autocast_the_loss_is_that_of_training(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer, loaded = trainer_of(tiny_model_folder, tmp_path)
    trainer.train()
    rows = encoded(loaded)
    found = [validation_loss(trainer.model, rows, count, 1000).loss for count in (1, 3, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = by_hand(trainer.model, rows)
    assert found == pytest.approx([expected] * 3, abs=5e-3)


class Validating(TrainerCallback):  # type: ignore[misc]
    """Validates after every step, as `train` will."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        before = state_of(self.loaded.model)
        self.losses.append(validation_loss(self.loaded.model, encoded(self.loaded), 3, 200).loss)
        exact_match(self.loaded, ROWS[:2], 2)
        assert state_of(self.loaded.model) == before


def state_of(network: Any) -> list[Any]:
    """All that a validation might leave behind."""
    base = network.get_base_model()
    return [
        [module.training for module in network.modules()],
        [getattr(module, "gradient_checkpointing", None) for module in network.modules()],
        [getattr(module, "cast_input_dtype_enabled", None) for module in network.modules()],
        [(value.requires_grad, value.grad is None) for value in network.parameters()],
        (base.config.use_cache, base.generation_config.to_dict(), torch.is_grad_enabled()),
        (torch.get_rng_state().tolist(), random.getstate(), [*numpy.random.get_state()[1]]),  # noqa: NPY002
    ]


@pytest.mark.parametrize(("checkpointing", "dora"), [(Checkpointing.none, False), (Checkpointing.full, True)])
def test_a_run_that_validates_ends_with_the_very_adapter_of_one_that_does_not(
    checkpointing: Checkpointing, dora: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    train = replace(TRAIN, checkpointing=checkpointing, lora=replace(TRAIN.lora, dora=dora))
    ends = []
    for validates in (False, True):
        trainer, loaded = trainer_of(tiny_model_folder, tmp_path, train)
        watch = Validating(loaded)
        if validates:
            trainer.add_callback(watch)
        trainer.train()
        ends.append({name: value for name, value in trainer.model.named_parameters() if value.requires_grad})
    assert len(watch.losses) == 3
    assert watch.losses[-1] < watch.losses[0]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_validation_needs_less_memory_than_a_step(tiny_model_folder: Path, tmp_path: Path) -> None:
    """With recomputation, where a step is at its smallest."""
    train = replace(TRAIN, checkpointing=Checkpointing.full)  # three steps are all rows
    trainer, loaded = trainer_of(tiny_model_folder, tmp_path, train)
    rows = encoded(loaded)
    largest = 2 * max(len(row.ids) for row in rows)
    with tracked(trainer.model) as step:
        trainer.train()
    trainer.model.zero_grad()
    with tracked(trainer.model) as validation:
        validation_loss(trainer.model, rows, 2, largest)
    assert validation.peak.total < step.peak.total


def test_exact_match_is_the_share_of_right_greedy_answers(tiny_model_folder: Path, tmp_path: Path) -> None:
    train = replace(TRAIN, max_steps=16, lora=LoraSettings(rank=8))
    trainer, loaded = trainer_of(tiny_model_folder, tmp_path, train)
    assert exact_match(loaded, ROWS[:4], 4) == 0.0
    trainer.train()
    right = 0
    for row, wanted in zip(ROWS, encoded(loaded), strict=True):
        ids = loaded.renderer.prompt_ids(row["messages"])
        answer = wanted.ids[len(ids) :]
        for token in answer:  # one token after the other, without a cache
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                if int(trainer.model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) != token:
                    break
            ids = [*ids, token]
        right += ids == wanted.ids
    assert right > 0
    assert exact_match(loaded, ROWS, 3) == right / len(ROWS)


def test_without_rows_there_is_nothing_to_validate(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer, loaded = trainer_of(tiny_model_folder, tmp_path)
    with pytest.raises(ConfigError, match=r"val\.jsonl holds no row"):
        validation_loss(trainer.model, [], 2, 100)
    with pytest.raises(ConfigError, match=r"val\.jsonl holds no row"):
        exact_match(loaded, [], 4)
