"""Scores of filled sheets with numbers worked out beforehand."""

from typing import Any

import numpy as np
import pytest

from eval.experts.returned import Judgement
from eval.experts.scoring import (
    agreement,
    detectable_win_rate,
    krippendorff_alpha,
    score,
    unanimous_interval,
    unblinded,
)
from finetune.config.eval import EvalConfig
from finetune.errors import DataError

CONFIG = EvalConfig(resamples=2000)


def key(count: int, rows_a_group: int = 1, rows: int = 100, differing: int = 40) -> dict[str, Any]:
    """Items with the adapter on the right where the number is odd."""
    items = [
        {
            "item": number,
            "row": f"r{number}",
            "group": f"g{(number - 1) // rows_a_group}",
            "left": "base" if number % 2 else "adapter",
            "metric_gain": (1.0, 0.0, -1.0)[number % 3],
        }
        for number in range(1, count + 1)
    ]
    about = {
        "sheet": "0a1b2c3d",
        "report": "ffffffff",
        "task": "label",
        "against": "base",
        "adapter": "adapter",
    }
    return {**about, "rows": rows, "differing": differing, "items": items}


def sheet(wins: int, losses: int, good: int = 0, bad: int = 0, start: int = 1) -> list[Judgement]:
    """A reviewer who prefers the adapter `wins` times, then the base, then neither."""
    wanted = ["adapter"] * wins + ["base"] * losses + ["both good"] * good + ["both bad"] * bad
    return [Judgement(number, _side(number, choice), "") for number, choice in enumerate(wanted, start)]


def _side(number: int, choice: str) -> str:
    if choice.startswith("both"):
        return choice
    return "right" if (choice == "adapter") == bool(number % 2) else "left"


def test_fifteen_wins_of_twenty() -> None:
    """2 (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 = 0.0414; Clopper-Pearson 0.5090 to 0.9134 (R's binom.test)."""
    found = score(key(20), [sheet(15, 5)], CONFIG)
    assert (found["wins"], found["losses"], found["ties"], found["unanswered"]) == (15, 5, 0, 0)
    assert found["decided"]["p"] == pytest.approx(2 * 21700 / 2**20)
    assert found["comparison"]["mcnemar_p"] == found["decided"]["p"]
    assert (found["decided"]["low"], found["decided"]["high"]) == pytest.approx((0.50895, 0.91343), abs=1e-5)
    assert found["win_rate"]["value"] == 0.75
    assert found["comparison"]["delta"] == 0.5
    assert found["gain_over_all_rows"]["value"] == pytest.approx(0.2)  # 0.5 on 40 of 100 rows
    assert found["gain_over_all_rows"]["low"] == pytest.approx(0.4 * found["comparison"]["ci_low"])
    assert found["verdict"] == "better"
    assert found["choices"] == {"adapter": 15, "base": 5, "both good": 0, "both bad": 0}
    assert (found["sides"]["left"], found["sides"]["right"]) == (9, 11)  # 7 even and 2 odd wins stand left
    assert found["sides"]["p"] == pytest.approx(2 * 431910 / 2**20)
    assert found["agreement"] is None
    # wins on 1 to 15, losses on 16 to 20: the metric is for the adapter on 3, 6, 9 …, silent on 1, 4, 7 …
    assert found["metric"] == {"same": 7, "opposite": 6, "silent": 7}


def test_ties_count_half_and_open_items_not_at_all() -> None:
    found = score(key(30), [[*sheet(12, 4, 3, 1), Judgement(21, None, "?")]], CONFIG)
    assert (found["judged"], found["unanswered"], found["ties"]) == (20, 10, 4)
    assert found["win_rate"]["value"] == pytest.approx((12 + 2) / 20)
    assert found["decided"]["value"] == 0.75
    assert found["reviewers"] == [{"adapter": 12, "base": 4, "both good": 3, "both bad": 1, "unanswered": 10}]


def test_rows_of_one_group_count_together() -> None:
    """15 of 20 in 4 groups of 5 shows nothing, and the losing side is told as such."""
    found = score(key(20, rows_a_group=5), [sheet(15, 5)], CONFIG)
    assert (found["comparison"]["n_groups"], found["verdict"]) == (4, "inconclusive")
    assert score(key(20), [sheet(2, 18)], CONFIG)["verdict"] == "worse"
    with pytest.raises(DataError, match="in one group"):
        score(key(20, rows_a_group=20), [sheet(15, 5)], CONFIG)


def test_unanimous_reviewers_are_not_certain() -> None:
    """10 of 10: a share of 1 - 0.025^(1/10) = 0.3085 could say the opposite."""
    found = score(key(10), [sheet(10, 0)], CONFIG)
    assert found["win_rate"] == pytest.approx({"value": 1.0, "low": 1 - 0.30850, "high": 1.0}, abs=1e-5)
    assert found["verdict"] == "better"
    few = score(key(40, rows_a_group=20), [sheet(30, 10)], CONFIG)
    assert (few["win_rate"]["low"], few["win_rate"]["high"]) == (0.0, 1.0)  # not beyond, as t would have it
    assert unanimous_interval(0.0, 10, 0.95) == pytest.approx((-0.30850, 0.30850), abs=1e-5)
    assert unanimous_interval(-1.0, 10, 0.95) == pytest.approx((-1.0, -1 + 0.61700), abs=1e-5)


def test_several_reviewers_weigh_a_row_as_one() -> None:
    """Two of three prefer the adapter on every row: each row adds (2 - 1) / 3."""
    reviewers = [sheet(9, 0), sheet(9, 0), sheet(0, 9)]
    found = score(key(9), reviewers, CONFIG)
    assert (found["judged"], found["wins"]) == (9, 9)
    assert found["comparison"]["delta"] == pytest.approx(1 / 3)
    assert found["choices"] == {"adapter": 18, "base": 9, "both good": 0, "both bad": 0}
    assert found["agreement"]["same"] == pytest.approx(1 / 3)
    assert found["agreement"]["cohen_kappa"] is None


def test_cohens_kappa_of_two() -> None:
    """Both say left 20 of 50 times, right 15 times; 5 and 10 apart: (0.7 - 0.5) / 0.5 = 0.4."""
    pairs = [("left", "left")] * 20 + [("left", "right")] * 5 + [("right", "left")] * 10
    pairs += [("right", "right")] * 15
    reviewers = [[Judgement(n, pair[side], "") for n, pair in enumerate(pairs)] for side in (0, 1)]
    found = agreement(reviewers)
    assert found is not None
    assert (found["items"], found["same"]) == (50, 0.7)
    assert found["cohen_kappa"] == pytest.approx(0.4)


def test_krippendorffs_alpha_of_his_example_with_gaps() -> None:
    """Krippendorff 2011, example C: four observers, twelve units, 0.743."""
    observers = ["123321412...", "1233224125.3", ".33323422512"[:11] + ".", "123324412512"[:11] + "."]
    observers[2] = ".3332342251."
    observers[3] = "12332441251."
    units = [[row[unit] for row in observers if row[unit] != "."] for unit in range(12)]
    assert krippendorff_alpha([unit for unit in units if len(unit) > 1]) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["left", "left"]] * 5) is None
    assert krippendorff_alpha([]) is None


def test_full_tables_agree_with_fleiss() -> None:
    """With nothing missing alpha is Fleiss' kappa with his small-sample term: 1 - (1 - kappa) (n - 1) / n."""
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    ratings = np.random.default_rng(0).choice(["left", "right", "both good"], size=(40, 3), p=[0.5, 0.3, 0.2])
    kappa = fleiss_kappa(aggregate_raters(ratings)[0])
    alpha = krippendorff_alpha(ratings.tolist())
    assert alpha == pytest.approx(1 - (1 - kappa) * (120 - 1) / 120)


def test_choices_are_unblinded_by_the_key() -> None:
    found = [unblinded(key(2), Judgement(n, side, "")) for n in (1, 2) for side in ("left", "right")]
    assert found == ["base", "adapter", "adapter", "base"]
    assert unblinded(key(2), Judgement(1, "both bad", "")) == "both bad"


def test_what_a_sheet_can_show_is_known_before() -> None:
    """50 groups of one row: half of (2.01 + 0.86) sqrt(0.7 / 50) above a half; 7 groups show nothing."""
    assert detectable_win_rate([str(row) for row in range(50)], CONFIG) == pytest.approx(0.67, abs=0.003)
    assert detectable_win_rate([str(row) for row in range(7)], CONFIG) is None


def test_a_blank_sheet_is_refused() -> None:
    with pytest.raises(DataError, match="no item is judged"):
        score(key(3), [[Judgement(1, None, "")]], CONFIG)
