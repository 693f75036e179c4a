"""report.json by its contract, the gate on it, and the page that shows it."""

import re
from typing import Any

import pytest

from eval import lost
from eval.predictions import Prediction
from eval.report import page, summary, terminal
from eval.tasks import make_tasks
from finetune.config.eval import EvalConfig, Metric, TaskConfig, TaskKind
from finetune.errors import DataError
from finetune.generate import Answer
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
    assert list(report) == ["arms", "comparisons", "primary", "reference", "verdict", "labels"]
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


def test_one_gold_answer_for_all_is_refused(make: Any) -> None:
    arms = {arm: make([CANARY] * 20, ["x"] * 20, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    with pytest.raises(DataError, match="all 20 gold answers are the same") as caught:
        summary.summarise(make_tasks(config()), arms, set(), config())
    assert CANARY not in str(caught.value)


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


def test_what_was_lost_has_a_line_each_and_numbers(
    report: dict[str, Any], arms: dict[str, list[Prediction]]
) -> None:
    for index, item in enumerate(arms["adapter"]):
        item["confidence"] = 0.9 if index < 45 else 0.4
    tasks, doubled = make_tasks(config()), {}
    for arm, items in arms.items():  # 120 rows, so that there are bins and slices
        again = [{**item, "id": f"{item['id']}b", "group": f"{item['group']}b"} for item in items]
        doubled[arm] = [*items, *again]
    rows = [
        {"id": item["id"], "target": item["gold"], "messages": [{"role": "user", "content": "x"}]}
        for item in doubled["adapter"]
    ]
    answers = {arm: [Answer(item["raw"], None) for item in items] for arm, items in doubled.items()}
    report |= lost.sections(tasks, doubled, report["arms"], (rows, answers), config(), True)
    suite = {"name": "mmlu", "skipped": None, "margin": 0.05, "not_inferior": True, "p": 0.5}
    told = {"value_base": 0.5, "value_adapter": 0.48, "delta": -0.02, "ci_low": -0.04, "ci_high": 0.0}
    gone = {**dict.fromkeys([*suite, *told]), "name": "bbh", "skipped": "it is not there"}
    report["forgetting"] = {"suites": [suite | told, gone]}

    lines = list(terminal.lines(report, config()))
    assert lines[-4].startswith(
        "worst of 2 slices: label bsd of label, adapter minus base on exact_match +0.7333 [+0."
    )
    assert lines[-3] == "calibration error (ECE) on label: adapter 0.175"
    assert lines[-2] == (
        "forgetting: mmlu 50.0 % to 48.0 %, -0.0200 [-0.0400, +0.0000], a loss of 0.05 is excluded; "
        "bbh skipped (it is not there)"
    )
    assert lines[-1].startswith("better: ")
    found = summary.numbers(report)
    assert found["eval/label/adapter/ece"] == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)
    assert found["eval/label/majority/median_characters"] == 3
    assert found["eval/worst_slice/delta"] == pytest.approx(22 / 30)
    assert (found["eval/slices/shown"], found["eval/slices/worse"]) == (2.0, 0.0)
    assert found["eval/forgetting/mmlu/delta"] == -0.02
    assert not any("bsd" in name or "bbh" in name for name in found)
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


def test_every_label_stands_on_the_page_unless_all_are_slices(make: Any) -> None:
    gold = ["mit"] * 30 + ["bsd"] * 8
    arms = {arm: make(gold, gold, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    found = summary.summarise(make_tasks(config()), arms, set(), config())
    of_mit = {
        **{
            "task": "label",
            "by": "label",
            "slice": "mit",
            "a": "base",
            "b": "adapter",
            "n": 30,
            "n_groups": 30,
        },
        **{
            "metric": "exact_match",
            "value_a": 1.0,
            "value_b": 1.0,
            "delta": 0.0,
            "ci_low": -0.1,
            "ci_high": 0.1,
        },
        **{"p": 1.0, "p_adjusted": 1.0, "verdict": "inconclusive"},
    }
    for slices, shown in (([], True), ([of_mit], True), ([of_mit, {**of_mit, "slice": "bsd"}], False)):
        html = page.render("toy", {**found, "slices": slices}, arms, [], config(), page.Shown(True))
        assert ('<td class="mono">bsd</td>' in html) is shown


def test_free_targets_are_not_shown(make: Any) -> None:
    gold = [CANARY, "bsd"] * 10
    arms = {arm: make(gold, gold, arm=arm) for arm in ("base", "adapter", "majority", "svm")}
    found = summary.summarise(make_tasks(config()), arms, set(), config())
    assert CANARY in page.render("toy", found, arms, [], config(), page.Shown(True))
    assert CANARY not in page.render("toy", found, arms, [], config(), page.Shown(False))
