"""All that decides how a run goes on: weights, optimizer, schedule and random states, as files and back."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file, save

from finetune.checkpoint import Writers
from finetune.errors import ConfigError

WEIGHTS, STATES, PROGRESS = "weights.safetensors", "states.pt", "trainer_state.json"
"""The trained parameters; optimizer, schedule, random states and the trainer's sums; transformers' own counters."""


def trained(network: Any) -> dict[str, torch.Tensor]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def random_states() -> dict[str, Any]:
    """The states of every generator that training draws from, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    found = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.array(keys)), int(position), int(has_gauss), float(gauss)],
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.random.get_rng_state()
    return found


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put every generator where `random_states` found it."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.random.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.random.set_rng_state(states["cuda"])


def weight_files(network: Any) -> Writers:
    """What writes the trained parameters alone."""
    return {WEIGHTS: lambda stream: stream.write(_weights(network))}


def state_files(trainer: Any, states: Mapping[str, Any]) -> Writers:
    """What writes the whole state of a trainer; `states` stand beside optimizer and schedule."""

    def write_states(stream: BinaryIO) -> None:
        optimizer, schedule = trainer.optimizer.state_dict(), trainer.lr_scheduler.state_dict()
        torch.save({"optimizer": optimizer, "schedule": schedule, **states}, stream)

    def write_progress(stream: BinaryIO) -> None:
        stream.write(json.dumps(asdict(trainer.state), indent=1).encode())

    return {**weight_files(trainer.model), STATES: write_states, PROGRESS: write_progress}


def _weights(network: Any) -> bytes:
    return save({name: value.detach().cpu().contiguous() for name, value in trained(network).items()})


def load_weights(network: Any, folder: Path) -> None:
    """Set the trained parameters to those of a checkpoint, bit for bit. Raises ConfigError where they are others."""
    found, own = load_file(folder / WEIGHTS), trained(network)
    if found.keys() != own.keys() or any(found[name].shape != own[name].shape for name in own):
        raise ConfigError(
            f"{folder} holds other parameters than those that are trained, so it is of other code; delete "
            f"{folder.parent} to start the run again"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])


def read_states(folder: Path) -> dict[str, Any]:
    """Optimizer, schedule and the other states of a checkpoint, on the CPU; nothing is unpickled but plain values."""
    found: dict[str, Any] = torch.load(folder / STATES, map_location="cpu", weights_only=True)
    return found


def checkpoint_bytes(trainer: Any) -> tuple[int, int]:
    """Bytes of a checkpoint's fp32 weights, and about those of its two moments, by the optimizer's width."""
    count = sum(value.numel() for value in trained(trainer.model).values())
    return 4 * count, (2 if "8bit" in trainer.args.optim else 8) * count
