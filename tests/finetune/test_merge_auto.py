"""`export.base=auto` and an export that is killed or refused: one run folder, both bases, the same bytes in the end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.prepare import prepare
from finetune import export
from finetune.chat import IGNORE, Encoded
from finetune.merge_auto import Measured, better, measured_on
from finetune.probe import Probe
from finetune.stage import stage
from finetune.train import run as train

SETTINGS = ("train.max_steps=6", "tracking.mode=disabled", "export.force=true")


def measured(kl: float, losses: list[float]) -> Measured:
    return Measured({"kl": kl}, torch.tensor(losses, dtype=torch.float64))


def test_the_lower_kl_ships_unless_the_others_answers_are_likelier_by_more_than_noise() -> None:
    one, two = [1.0, 1.1, 0.9, 1.0], [0.9, 1.2, 0.8, 1.1]
    assert better({"a": measured(1e-3, one), "b": measured(2e-3, two)})[0] == "a"  # equal on average
    lower = [value - 0.5 for value in one]
    lower[0] -= 0.01  # difference 0.5025, standard error 0.0025
    name, why = better({"a": measured(1e-3, one), "b": measured(2e-3, lower)})
    assert (name, why.split(",")[0]) == ("b", "whose answer loss is 0.5025 nats a row lower")
    assert better({"a": measured(3e-3, one), "b": measured(2e-3, one)})[0] == "b"
    assert (
        better({"a": measured(1e-3, one[:1]), "b": measured(2e-3, lower[:1])})[0] == "a"
    )  # one row says nothing


def test_loss_and_exact_match_by_hand() -> None:
    rows = [Encoded([9, 0, 1], [IGNORE, 0, 1]), Encoded([9, 1], [IGNORE, 1])]
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]])
    found = measured_on(Probe([], logits, []), Probe([], logits, [[0, 1], [0]]), rows)
    # ln 2, ln 2 and ln(4/3); the second row's greedy answer is another
    assert found.figures["answer_loss"] == pytest.approx((2 * 0.693147 + 0.287682) / 3, abs=1e-5)
    assert (found.figures["exact_match"], found.figures["kl"]) == (0.5, 0.0)
    assert found.losses.tolist() == pytest.approx([0.693147, 0.287682], abs=1e-5)


def test_auto_measures_both_bases_and_ships_one(private: Path, argv: Callable[..., list[str]]) -> None:
    assert stage("prepare", prepare, argv(*SETTINGS)) == 0
    assert stage("train", train, argv(*SETTINGS)) == 0
    folders = {}
    for kind in ("dequantised", "original", "auto"):
        loose = ("export.max_kl_over_floor=1e6", "export.max_top1_below_floor=1")
        assert stage("export", export.run, argv(*SETTINGS, f"export.base={kind}", *loose)) == 0
        parent = private / "artifacts/exports/tiny"
        folders[kind] = parent / (parent / "current").read_text().strip()
    weights = {kind: load_file(folder / "model.safetensors") for kind, folder in folders.items()}
    figures = {kind: json.loads((folder / "fidelity.json").read_text()) for kind, folder in folders.items()}
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(weights["dequantised"][name], weights["original"][name])
    assert figures["original"]["mean_kl"] > 10 * figures["dequantised"]["mean_kl"]
    assert all(found["fp32_kl"] < 1e-6 for found in figures.values())
    candidates = figures["auto"]["candidates"]
    assert candidates["chosen"] == figures["auto"]["base"]
    assert candidates["original"]["kl"] > candidates["dequantised"]["kl"]
    assert torch.equal(weights["auto"][name], weights[candidates["chosen"]][name])
    assert figures["dequantised"]["candidates"] == {}
    assert not (folders["auto"] / "checkpoints").exists()
    listed = {item["path"] for item in json.loads((folders["auto"] / "manifest.json").read_text())["files"]}
    assert "model.safetensors" in listed
    assert not any("checkpoints" in path for path in listed)
