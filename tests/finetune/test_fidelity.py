import math
import re
from typing import Any

import pytest
import torch

from finetune.agreement import agreement
from finetune.config.schema import ExportConfig
from finetune.fidelity import verdict

GOOD: dict[str, Any] = {
    "prompt_ids_equal": True,
    "positions": 2000,
    "fp32_kl": 1e-9,
    "fp32_top1": 1.0,
    "mean_kl": 2.9e-4,
    "floor": {"kl": 1e-4},
}


def test_equal_logits_agree() -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    found = agreement(logits, logits.clone(), chunk=3)
    assert (found.kl, found.top1, found.margin) == (0.0, 1.0, 0.0)


def test_kl_of_two_known_distributions() -> None:
    # KL([1/2, 1/2] || [1/4, 3/4]) = ln 2 - ln(3)/2 = 0.143841
    first, second = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    assert agreement(first, second).kl == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-7)


def test_top1_is_a_share_and_the_margin_a_change_of_the_gap() -> None:
    first = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    found = agreement(first, second)
    assert found.top1 == 0.5
    assert found.margin == pytest.approx(1.5, abs=0.01)  # gap 2.0 became 0.5


def test_good_figures_pass() -> None:
    assert verdict(GOOD, ExportConfig()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt_ids_equal": False}, "other prompt ids"),
        ({"positions": 999}, r"export\.min_positions=1000"),
        ({"fp32_kl": 2e-4}, r"export\.max_fp32_kl"),
        ({"fp32_top1": 0.99}, r"export\.min_fp32_top1"),
        ({"mean_kl": 3.1e-4}, r"export\.max_kl_over_floor=3\.0 times"),
    ],
)
def test_each_threshold_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    (problem,) = verdict({**GOOD, **change}, ExportConfig())
    assert re.search(told, problem)


def test_without_the_fp32_check_its_thresholds_do_not_apply() -> None:
    assert verdict({**GOOD, "fp32_kl": None, "fp32_top1": None}, ExportConfig(fp32_check=False)) == []
