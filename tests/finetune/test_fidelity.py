import math
import re
from typing import Any

import pytest
import torch

from finetune.agreement import agreement
from finetune.chat import IGNORE, Encoded
from finetune.config.schema import ExportConfig
from finetune.fidelity import verdict
from finetune.free_positions import free_positions

GOOD: dict[str, Any] = {
    "prompt_ids_equal": True,
    "max_rounding_ulp": 0.5,
    "answer_positions": 2000,
    "fp32_kl": 1e-9,
    "fp32_top1": 1.0,
    "mean_kl": 2.9e-4,
    "top1_agreement": 0.985,
    "floor": {"kl": 1e-4, "top1": 0.99},
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
        ({"max_rounding_ulp": 0.51}, "0.510 bf16 places from the fp32 sum"),
        ({"top1_agreement": 0.979}, r"0\.9790 is below 0\.9800.*export\.max_top1_below_floor=0\.01"),
        ({"mean_kl": math.nan}, "bf16 KL nan is above"),
        ({"answer_positions": 999}, r"export\.min_positions=1000"),
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


def answers(*texts: str) -> list[Encoded]:
    return [Encoded([0, *map(ord, text)], [IGNORE, *map(ord, text)]) for text in texts]


def free(*texts: str, others: list[Encoded] | None = None) -> str:
    """The answers' tokens, one after the other: free ones as they are, forced ones as a dash."""
    found = free_positions(answers(*texts), others or [])
    return "".join(
        letter if open_ else "-" for letter, open_ in zip("".join(texts), found.tolist(), strict=True)
    )


def test_what_two_answers_share_after_the_same_beginning_is_forced_by_the_format() -> None:
    # n or p decides; the rest of the label and the end are forced
    assert free("notice$", "pay$", "notice$", "pay$") == "n------p---n------p---"
    # the third token decides between two labels that begin alike
    assert free("nod$", "not$", "not$", "nod$") == "--d---t---t---d-"


def test_in_a_list_going_on_or_closing_is_a_choice() -> None:
    assert free("[a]$", "[a,b]$", "[a]$", "[a,b]$") == "--]---,-----]---,---"


def test_nothing_is_forced_in_an_answer_that_begins_like_no_other() -> None:
    assert free("xyz$", "abc$", "abc$") == "xyz$a---a---"
    assert free("xyz$", "abc$", others=answers("xyz$", "abc$")) == "x---a---"
