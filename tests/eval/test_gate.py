"""What the adapter must beat and must not lose, and how often the gate errs."""

from typing import Any

import pytest

from eval import gate
from eval.report import page, summary
from eval.tasks import make_tasks
from finetune.config.eval import Arm, EvalConfig, Metric, Reference, TaskConfig, TaskKind
from finetune.errors import ConfigError, RefusedError
from scripts.check_gate import errors

GOLD = ["mit", "bsd"] * 30
ALL = ("base", "few_shot", "majority", "svm")


def config(**settings: Any) -> EvalConfig:
    tasks = {"label": TaskConfig(TaskKind.classification, Metric.exact_match)}
    return EvalConfig(tasks=tasks, primary="label", resamples=500, **settings)


def right(count: int, start: int = 0) -> list[str]:
    """Answers of which so many are right, from a row on."""
    return [gold if start <= row < start + count else "gpl" for row, gold in enumerate(GOLD)]


def judged(make: Any, settings: EvalConfig, adapter: list[str], **others: list[str]) -> dict[str, Any]:
    """The report on these answers with its gate; rows stand two a group."""
    groups = [f"g{row // 2}" for row in range(60)]
    rivals = {arm: others.get(arm, right(0)) for arm in ("base", "few_shot", "majority")}
    found = {arm: make(GOLD, answers, groups, arm) for arm, answers in {**rivals, **others}.items()}
    found["adapter"] = make(GOLD, adapter, groups, "adapter")
    report = summary.summarise(make_tasks(settings), found, {"mit", "bsd"}, settings)
    return report | {"gate": gate.judge(report, settings)}


def test_the_adapter_must_beat_every_rival_and_the_best_is_the_reference(make: Any) -> None:
    report = judged(make, config(), right(45), few_shot=right(20), majority=right(10))
    assert (report["reference"], report["verdict"], report["gate"]["passed"]) == ("few_shot", "better", True)
    assert [(check["a"], check["delta"]) for check in report["gate"]["checks"]] == [
        ("few_shot", pytest.approx(25 / 60)),
        ("base", 0.75),
        ("majority", pytest.approx(35 / 60)),
    ]
    assert {check["kind"] for check in report["gate"]["checks"]} == {"superiority"}
    gate.require_passed(report, config())
    assert gate.overrides(report) == []


def test_beating_the_best_alone_is_not_enough(make: Any) -> None:
    """few_shot is best and beaten for certain; base is lower, but right on other rows, so nothing is shown."""
    ours = [*right(44)[:44], *["gpl"] * 16]
    report = judged(make, config(), ours, few_shot=right(34), base=right(33, start=27))
    assert report["reference"] == "few_shot"
    verdicts = {check["a"]: check["verdict"] for check in report["gate"]["checks"]}
    assert verdicts == {"few_shot": "better", "base": "inconclusive", "majority": "better"}
    assert (report["verdict"], report["gate"]["passed"]) == ("inconclusive", False)
    with pytest.raises(
        RefusedError, match=r"^inconclusive: adapter minus base on label exact_match"
    ) as caught:
        gate.require_passed(report, config())
    assert (caught.value.exit_code, len(caught.value.problems)) == (3, 1)
    assert "60 rows in 30 groups" in caught.value.problems[0]


def test_a_reference_by_name_is_the_only_rival(make: Any) -> None:
    named = config(reference=Reference.few_shot)
    report = judged(make, named, right(44), few_shot=right(30), base=right(40, start=20))
    assert (report["reference"], report["verdict"]) == ("few_shot", "better")
    assert [check["a"] for check in report["gate"]["checks"]] == ["few_shot"]


def test_inconclusive_passes_only_where_it_is_accepted_and_worse_never(make: Any) -> None:
    lenient = config(accept_inconclusive=True)
    report = judged(make, lenient, right(45), base=right(44))
    assert (report["verdict"], report["gate"]["passed"]) == ("inconclusive", True)
    gate.require_passed(report, lenient)
    assert gate.overrides(report) == ["eval.accept_inconclusive"]
    worse = judged(make, lenient, right(20), base=right(44))
    assert (worse["verdict"], worse["gate"]["passed"]) == ("worse", False)
    with pytest.raises(RefusedError, match=r"^worse: adapter minus base"):
        gate.require_passed(worse, lenient)
    assert gate.overrides(worse) == []


@pytest.mark.parametrize(("close", "verdict"), [("base", "better"), ("svm", "inconclusive")])
def test_a_better_of_the_gate_stands_by_its_own_p(close: str, verdict: str, make: Any) -> None:
    """13 rows fixed and 4 broken: p is below 0.05 alone, above it beside the others; all of the gate's must hold."""
    ours = GOLD[:36] + ["gpl"] * 11 + GOLD[47:60]
    rivals = dict.fromkeys(ALL, ours) | {"majority": ["gpl"] * 60, close: GOLD[:40] + ["gpl"] * 20}
    arms = {arm: make(GOLD, found, arm=arm) for arm, found in rivals.items()}
    found = summary.summarise(make_tasks(config()), {**arms, "adapter": make(GOLD, ours)}, set(), config())
    item = next(item for item in found["comparisons"] if item["a"] == close)
    assert item["test"] == "McNemar mid-p"
    assert item["mcnemar_p"] == pytest.approx(2 * (1 + 17 + 136 + 680 + 2380) / 2**17)
    assert item["p"] < 0.05 < item["p_adjusted"]
    assert item["verdict"] == verdict


def test_a_worse_of_the_gate_must_hold_among_all_its_comparisons(make: Any) -> None:
    ours = GOLD[:40] + ["gpl"] * 20
    rivals = {"base": GOLD[:36] + ["gpl"] * 11 + GOLD[47:60], "few_shot": ours, "majority": ours, "svm": ours}
    arms = {arm: make(GOLD, found, arm=arm) for arm, found in rivals.items()}
    found = summary.summarise(make_tasks(config()), {**arms, "adapter": make(GOLD, ours)}, set(), config())
    item = next(item for item in found["comparisons"] if item["a"] == "base")
    assert item["p"] < 0.05 < item["p_adjusted"]
    assert (item["verdict"], found["verdict"]) == ("inconclusive", "inconclusive")


def test_choosing_the_best_arm_by_the_same_rows_makes_no_false_better() -> None:
    """A twin of the adapter that luck lifts above the base: against it alone one test set in five says `better`."""
    found = errors("twin", 200, resamples=200)
    assert found["best alone: better"] > 0.08
    assert found["better"] <= 0.05


def test_a_loss_beyond_the_margin_stops_the_adapter(make: Any) -> None:
    settings = config(margins={"label.macro_f1": 0.05, "label": 0.05})
    report = judged(make, settings, right(45))
    assert report["gate"]["passed"]
    abilities = report["gate"]["checks"][3:]
    assert [(check["kind"], check["metric"], check["margin"], check["verdict"]) for check in abilities] == [
        ("non_inferiority", "macro_f1", 0.05, "not inferior"),
        ("non_inferiority", "exact_match", 0.05, "not inferior"),
    ]
    margins = {(item["a"], item["metric"]): item["margin"] for item in report["comparisons"]}
    assert (margins["base", "macro_f1"], margins["few_shot", "macro_f1"]) == (0.05, None)


def test_a_margin_may_name_a_metric_that_is_not_compared_otherwise(make: Any) -> None:
    settings = config(margins={"label.balanced_accuracy": 0.5})
    report = judged(make, settings, right(45), base=right(44))
    check = report["gate"]["checks"][-1]
    assert (check["metric"], check["delta"], check["passed"]) == (
        "balanced_accuracy",
        pytest.approx(1 / 60),
        True,
    )


def refusals(report: dict[str, Any], settings: EvalConfig) -> list[str]:
    """The lines of a refusal, none where the report passes."""
    try:
        gate.require_passed(report, settings)
    except RefusedError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("suite", "accepted", "verdict", "told"),
    [
        ({"not_inferior": True, "verdict": "worse"}, False, "not inferior", None),
        (
            {"not_inferior": False, "verdict": "inconclusive"},
            False,
            "inconclusive",
            "a loss is not excluded: ",
        ),
        ({"not_inferior": False, "verdict": "inconclusive"}, True, "inconclusive", None),
        ({"not_inferior": False, "verdict": "worse"}, True, "inferior", "lost: "),
    ],
)
def test_forgetting_suites_count_by_their_own_margins(
    make: Any, suite: dict[str, Any], accepted: bool, verdict: str, told: str | None
) -> None:
    settings = config(accept_inconclusive=accepted)
    report = judged(make, settings, right(45))
    found = {"name": "ours", "metric": "followed", "delta": -0.01, "ci_low": -0.03, "ci_high": 0.01}
    skipped = {"name": "mmlu", "skipped": "no files", "margin": None}
    suites = [{**found, "margin": 0.02, "skipped": None, **suite}, skipped]
    report |= {"forgetting": {"suites": suites}}
    report["gate"] = gate.judge(report, settings)
    assert [check["verdict"] for check in report["gate"]["checks"][3:]] == [verdict]
    lines = refusals(report, settings)
    assert bool(lines) == bool(told)
    if told:
        assert lines[0].startswith(f"{told}adapter minus base on ours followed is -0.0100 [-0.0300, +0.0100]")
        assert "above -0.02" in lines[0]


def test_without_the_arms_of_its_reference_a_report_has_no_gate(make: Any) -> None:
    two = config(arms=[Arm.adapter, Arm.svm])
    groups = [f"g{row // 2}" for row in range(60)]
    arms = {"adapter": make(GOLD, right(45), groups), "svm": make(GOLD, right(20), groups, "svm")}
    report = summary.summarise(make_tasks(two), arms, set(), two)
    assert gate.missing(arms, two) == ["base", "few_shot", "majority"]
    report |= {"gate": gate.judge(report, two)}
    assert (report["gate"], report["reference"], report["verdict"]) == (None, "svm", "better")
    gate.require_passed(report, two)
    assert "Gate: not computed" in page.render("toy", report, arms, [], two, page.Shown(True))


def test_a_metric_without_a_value_is_no_reference() -> None:
    values = {"adapter": 0.5, "base": 0.4, "few_shot": None, "majority": 0.45, "svm": 0.9}
    arms = {arm: {"label": {"exact_match": value}} for arm, value in values.items()}
    assert gate.reference(arms, config()) == "majority"
    arms["adapter"]["label"]["exact_match"] = None
    with pytest.raises(ConfigError, match="has no value"):
        gate.reference(arms, config())
