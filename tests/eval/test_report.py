"""report.json by its contract, the gate on it, and the page that shows it."""

import re
from typing import Any

import pytest

from eval import gate
from eval.predictions import Prediction
from eval.report import page, summary, terminal
from eval.tasks import make_tasks
from finetune.config.eval import EvalConfig, Metric, TaskConfig, TaskKind
from finetune.errors import DataError, RefusedError
from finetune.metrics import JobType, unknown

CANARY = "canary-7f3a"
GOLD = ["mit", "bsd"] * 30


def config(**settings: Any) -> EvalConfig:
    tasks = {"label": TaskConfig(TaskKind.classification, Metric.exact_match)}
    return EvalConfig(tasks=tasks, primary="label", resamples=500, **settings)


@pytest.fixture
def arms(make: Any) -> dict[str, list[Prediction]]:
    """Adapter 45 of 60, base none (and it quotes its prompt), majority 30, SVM 48."""
    answers = {
        "base": [f"{CANARY} <script>alert(1)</script>"] * 60,
        "adapter": GOLD[:45] + ["gpl"] * 15,
        "majority": ["mit"] * 60,
        "svm": GOLD[:48] + ["mit", "gpl"] * 6,
    }
    answers["svm"][48::2] = ["bsd"] * 6
    groups = [f"{CANARY}-{index // 2}" for index in range(60)]
    return {arm: make(GOLD, found, groups, arm) for arm, found in answers.items()}


@pytest.fixture
def report(arms: dict[str, list[Prediction]]) -> dict[str, Any]:
    return summary.summarise(make_tasks(config()), arms, {"mit", "bsd"}, config())


def test_report_holds_the_contract(report: dict[str, Any]) -> None:
    assert list(report) == ["arms", "comparisons", "primary", "verdict", "labels"]
    assert report["labels"] == {}
    assert report["arms"]["adapter"]["label"]["exact_match"] == 0.75
    names = ["exact_match", "macro_f1", "micro_f1", "balanced_accuracy", "in_vocabulary"]
    assert report["arms"]["base"]["label"] == dict.fromkeys(names, 0.0)
    assert report["arms"]["majority"]["label"]["macro_f1"] == pytest.approx(1 / 3)
    assert (report["primary"], report["verdict"]) == ("label", "better")
    assert [(item["a"], item["metric"]) for item in report["comparisons"]] == [
        (arm, metric) for arm in ("base", "majority", "svm") for metric in ("exact_match", "macro_f1")
    ]
    first = report["comparisons"][0]
    fields = "a, b, task, metric, delta, ci_low, ci_high, p, p_adjusted, mde, n, n_groups, verdict"
    assert ", ".join(list(first)[:13]) == fields
    assert (first["effective_groups"], first["value_a"], first["value_b"]) == (30.0, 0.0, 0.75)
    assert (first["delta"], first["n"], first["n_groups"], first["verdict"]) == (0.75, 60, 30, "better")
    adjusted = {(item["a"], item["metric"]): item["p_adjusted"] for item in report["comparisons"]}
    assert adjusted["base", "exact_match"] == pytest.approx(3 * first["p"])
    others = [item for item in report["comparisons"] if item["metric"] == "macro_f1"]
    assert {item["adjusted_by"] for item in others} == {"Benjamini-Hochberg"}
    assert max(item["p_adjusted"] for item in others) == max(item["p"] for item in others)


def test_the_stronger_of_base_and_majority_is_the_reference(report: dict[str, Any]) -> None:
    assert gate.deciding(report, config())["a"] == "majority"
    report["arms"]["base"]["label"]["exact_match"] = 0.5
    assert gate.reference(report["arms"], config()) == "base"  # a tie: the base


def test_one_gold_answer_for_all_is_refused(make: Any) -> None:
    arms = {arm: make([CANARY] * 20, ["x"] * 20, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    with pytest.raises(DataError, match="all 20 gold answers are the same") as caught:
        summary.summarise(make_tasks(config()), arms, set(), config())
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(("close", "verdict"), [("base", "better"), ("svm", "inconclusive")])
def test_only_the_verdict_named_beforehand_stands_alone(close: str, verdict: str, make: Any) -> None:
    """13 rows fixed and 4 broken: p is below 0.05 alone, above it beside two others, which the gate's own ignores."""
    ours = GOLD[:36] + ["gpl"] * 11 + GOLD[47:60]
    rivals = {"base": ours, "majority": ["gpl"] * 60, "svm": ours} | {close: GOLD[:40] + ["gpl"] * 20}
    arms = {arm: make(GOLD, found, arm=arm) for arm, found in rivals.items()}
    found = summary.summarise(make_tasks(config()), {**arms, "adapter": make(GOLD, ours)}, set(), config())
    item = next(item for item in found["comparisons"] if item["a"] == close)
    assert item["test"] == "McNemar mid-p"
    assert item["mcnemar_p"] == pytest.approx(2 * (1 + 17 + 136 + 680 + 2380) / 2**17)
    assert item["p"] < 0.05 < item["p_adjusted"]
    assert item["ci_low"] > 0
    assert item["verdict"] == verdict


def test_what_the_rows_can_show_is_said_before() -> None:
    """61 groups of 17 rows: 2.03 times 1.64 of 2 rows in 10; five groups show nothing."""
    rows = [{"group": index % 61} for index in range(61 * 17)]
    assert summary.foreseen(rows, config()) == (
        "1037 test rows in 61 groups: a gain of 5.3 points would be found 4 times in 5, were arms to differ on "
        "20 % of the rows"
    )
    assert (
        summary.foreseen(rows[:5], config()) == "5 test rows in 5 groups, too few or uneven for any verdict"
    )


def test_better_passes(report: dict[str, Any]) -> None:
    gate.require_gain(report, config())
    assert gate.overrides(report, config(accept_inconclusive=True)) == []


def test_worse_is_refused_whatever_is_accepted(report: dict[str, Any]) -> None:
    report["verdict"] = "worse"
    with pytest.raises(RefusedError) as caught:
        gate.require_gain(report, config(accept_inconclusive=True))
    assert caught.value.exit_code == 3


def test_inconclusive_is_refused_in_one_line_unless_accepted(arms: dict[str, list[Prediction]]) -> None:
    strict = config(min_gain=0.25)
    found = summary.summarise(make_tasks(strict), arms, set(), strict)
    assert found["verdict"] == "inconclusive"
    with pytest.raises(
        RefusedError, match=r"adapter minus majority .* is \+0.2500 \[.*60 rows in 30 groups"
    ) as caught:
        gate.require_gain(found, strict)
    assert (caught.value.exit_code, len(caught.value.problems)) == (3, 1)
    lenient = config(min_gain=0.25, accept_inconclusive=True)
    gate.require_gain(found, lenient)
    assert gate.overrides(found, lenient) == ["eval.accept_inconclusive"]


def test_terminal_shows_every_arm_and_the_verdict(report: dict[str, Any]) -> None:
    lines = list(terminal.lines(report, config()))
    assert len(lines) == 6
    assert lines[2].split() == "adapter 75.0 % 85.7 % 75.0 % 75.0 % 75.0 %".split()
    assert lines[-1].startswith("better: adapter minus majority on label exact_match is +0.2500 [")


def test_tracker_gets_the_verdict_and_numbers_only(report: dict[str, Any]) -> None:
    found = summary.numbers(report)
    assert found["eval/label/adapter/exact_match"] == 0.75
    assert found["eval/label/adapter-base/exact_match/delta"] == 0.75
    assert found.pop("eval/verdict") == "better"
    assert all(isinstance(value, float) for value in found.values())
    assert not unknown(found, JobType.eval)


def test_page_stands_alone_and_shows_no_row(
    report: dict[str, Any], arms: dict[str, list[Prediction]]
) -> None:
    html = page.render("toy", report, arms, [("data", "toy/12345678")], config(), page.Shown(True))
    assert CANARY not in html
    assert html.count("<script>") == 1  # our own, which sorts
    assert not re.search(r"(?:https?:|url\(|@import|\ssrc=|\shref=\"[^#])", html)
    assert "default-src 'none'; style-src 'sha256-" in html
    assert "@media (prefers-color-scheme: dark)" in html
    assert "color-scheme: light dark" in html
    assert '<section class="banner better">' in html
    assert "exact match 75.0 % against 50.0 %" in " ".join(html.split())
    assert "toy/12345678" in html
    flips = re.findall(r'<td class="number better">(\d+)</td>\s*<td class="number worse">(\d+)</td>', html)
    assert flips == [("45", "0"), ("22", "7"), ("0", "3")]


def test_page_escapes_labels(make: Any) -> None:
    gold = ["<b>mit</b>", "bsd"] * 10
    arms = {arm: make(gold, gold, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    found = summary.summarise(make_tasks(config()), arms, set(), config())
    html = page.render("toy", found, arms, [], config(), page.Shown(True))
    assert "&lt;b&gt;mit&lt;/b&gt;" in html
    assert "<b>mit" not in html
    assert found["verdict"] == "inconclusive"


def test_free_targets_are_not_shown(make: Any) -> None:
    gold = [CANARY, "bsd"] * 10
    arms = {arm: make(gold, gold, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    found = summary.summarise(make_tasks(config()), arms, set(), config())
    assert CANARY in page.render("toy", found, arms, [], config(), page.Shown(True))
    assert CANARY not in page.render("toy", found, arms, [], config(), page.Shown(False))
