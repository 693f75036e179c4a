"""Slices whose differences are known, and what may be named."""

from collections.abc import Sequence
from typing import Any

import pytest

from eval.predictions import Prediction
from eval.slices import Sliced, compare_slices, worst
from eval.tasks import make_tasks
from finetune.config.eval import EvalConfig, Metric, SliceBy, TaskConfig, TaskKind

LABELS = ["mit", "bsd", "gpl"]
GOLD = [LABELS[index // 60] for index in range(180)]


def config(*by: SliceBy, metric: Metric = Metric.exact_match, **settings: Any) -> EvalConfig:
    tasks = {"label": TaskConfig(settings.pop("kind", TaskKind.classification), metric)}
    return EvalConfig(tasks=tasks, primary="label", slices=list(by), **settings)


def rows(**fields: Sequence[Any]) -> list[dict[str, Any]]:
    """180 rows; row i has i + 1 characters."""
    return [
        {"id": f"row{index}", "messages": [{"role": "user", "content": "x" * (index + 1)}]}
        | {name: values[index] for name, values in fields.items()}
        for index in range(180)
    ]


@pytest.fixture
def arms(make: Any) -> tuple[list[Prediction], list[Prediction]]:
    """The base is right in every second row; the adapter on all of mit and bsd, on none of gpl."""
    base = make(GOLD, [gold if index % 2 else "?" for index, gold in enumerate(GOLD)], arm="base")
    return base, make(GOLD, GOLD[:120] + ["?"] * 60)


def sliced(
    arms: tuple[list[Prediction], list[Prediction]],
    test: list[dict[str, Any]],
    settings: EvalConfig,
    show: bool = True,
) -> Sliced:
    return compare_slices(
        make_tasks(settings), ({"label": arms[0]}, {"label": arms[1]}), test, settings, show
    )


@pytest.mark.parametrize("metric", [Metric.exact_match, Metric.macro_f1])
def test_the_lost_label_is_named_the_worst(arms: Any, metric: Metric) -> None:
    found = sliced(arms, rows(), config(SliceBy.label, metric=metric))  # by label it is exact match
    assert [(item["slice"], item["n"], item["delta"], item["verdict"]) for item in found.shown] == [
        ("bsd", 60, 0.5, "better"),
        ("gpl", 60, -0.5, "worse"),
        ("mit", 60, 0.5, "better"),
    ]
    lost = worst(found.shown)
    assert lost is not None
    assert (lost["by"], lost["slice"], lost["value_a"], lost["value_b"]) == ("label", "gpl", 0.5, 0.0)
    assert lost["ci_low"] < -0.5 < lost["ci_high"] < 0
    assert lost["p"] == pytest.approx(2 * (0.5**30 - 0.5**31))  # McNemar's mid-p: 30 broken, none fixed
    assert (lost["a"], lost["b"], lost["task"], lost["metric"]) == ("base", "adapter", "label", "exact_match")


def test_labels_are_not_named_where_targets_may_be_private(arms: Any) -> None:
    assert sliced(arms, rows(), config(SliceBy.label), show=False).shown == []
    free = config(SliceBy.label, kind=TaskKind.qa)
    assert sliced(arms, rows(), free).shown == []


def test_a_list_of_labels_is_in_the_slice_of_each(make: Any) -> None:
    gold: Any = [["mit", "bsd"]] * 40 + [["mit"]] * 40 + [[]] * 30
    base = make(gold, [["mit"]] * 110, arm="base")
    found = sliced((base, make(gold, gold)), [], config(SliceBy.label, kind=TaskKind.multi_label))
    assert [(item["slice"], item["n"], item["value_a"]) for item in found.shown] == [
        ("bsd", 40, 0.0),
        ("mit", 80, 0.5),
        ("no label", 30, 0.0),
    ]


def test_quarters_by_length_have_edges_and_equal_rows(arms: Any) -> None:
    found = sliced(arms, rows(), config(SliceBy.length))
    assert [(item["slice"], item["n"]) for item in found.shown] == [
        ("1 to 45 characters", 45),
        ("46 to 90 characters", 45),
        ("91 to 135 characters", 45),
        ("136 to 180 characters", 45),
    ]


def test_language_source_and_time_where_the_rows_have_them(arms: Any) -> None:
    languages = ["en"] * 100 + ["de"] * 60 + ["fr"] * 20
    files = [[{"sha256": "ab" * 32, "start": 0, "end": 1}]] * 90 + [
        [{"sha256": "cd" * 32, "start": 0, "end": 1}]
    ] * 90
    times = ["2025-12-31"] * 90 + ["2026-01-01T09:00"] * 90
    every = config(*SliceBy)
    test = rows(language=languages, sources=files, time=times)
    found = sliced(arms, test, every, show=False)
    assert {(item["by"], item["slice"]) for item in found.shown if item["by"] != "length"} == {
        ("language", "de"),
        ("language", "en"),
        ("source", "file abababab"),
        ("source", "file cdcdcdcd"),
        ("time", "2025"),
        ("time", "2026"),
    }
    assert found.too_small == [{"task": "label", "by": "language", "slices": 1, "rows": 20}]
    assert {item["by"] for item in sliced(arms, rows(), every, show=False).shown} == {"length"}
    months = sliced(arms, rows(time=["2026-01-02"] * 90 + ["2026-02-03"] * 90), config(SliceBy.time))
    assert [item["slice"] for item in months.shown] == ["2026-01", "2026-02"]
    one = sliced(arms, rows(language=["en"] * 180), config(SliceBy.language))
    assert one == Sliced([], [])  # a slice that holds every row says nothing new


def test_a_slice_of_one_group_is_too_small(make: Any) -> None:
    groups = ["same"] * 60 + [f"group{index}" for index in range(120)]
    arms = make(GOLD, ["?"] * 180, groups, arm="base"), make(GOLD, GOLD, groups)
    found = sliced(arms, rows(), config(SliceBy.label))
    assert [item["slice"] for item in found.shown] == ["bsd", "gpl"]
    assert found.too_small == [{"task": "label", "by": "label", "slices": 1, "rows": 60}]


def test_a_find_among_many_slices_does_not_stand(make: Any) -> None:
    """One of 20 slices has 6 rows fixed and none broken (p = 0.016), in the others nothing moved."""
    gold = [f"label{index // 30}" for index in range(600)]
    base = make(gold, gold[:594] + ["?"] * 6, arm="base")
    found = sliced((base, make(gold, gold)), [], config(SliceBy.label))
    item = next(item for item in found.shown if item["delta"])
    assert item["p"] == pytest.approx(2 * 0.5**6 - 0.5**6)
    assert item["ci_low"] > 0
    assert item["p_adjusted"] == pytest.approx(20 * item["p"])
    assert item["verdict"] == "inconclusive"


def test_the_tasks_own_metric_is_taken_where_a_slice_has_several_labels(arms: Any) -> None:
    halves = ["en", "de"] * 90
    found = sliced(arms, rows(language=halves), config(SliceBy.language, metric=Metric.macro_f1))
    assert {item["slice"]: (item["value_a"], item["value_b"]) for item in found.shown} == {
        "en": (0.0, pytest.approx(2 / 3)),
        "de": (1.0, pytest.approx(2 / 3)),
    }
    assert found.shown[0]["delta"] == pytest.approx(-1 / 3)
