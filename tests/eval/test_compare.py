"""`python -m eval.compare` on files of any origin: the verdict, its fields, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.compare import main
from eval.comparison import Comparison

SECRET = "canary-7f3a"
Row = dict[str, Any]
Write = Callable[[str, Sequence[Row]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(name: str, rows: Sequence[Row]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return to


def rows(right: int, count: int = 60, groups: int = 20) -> list[Row]:
    """Labels mit and bsd in turn; the first `right` rows are answered right, the others with text of their own."""
    gold = ["mit", "bsd"] * (count // 2)
    return [
        {
            "id": f"r{index}",
            "group": f"g{index % groups}",
            "gold": label,
            "prediction": label if index < right else SECRET,
            "score": float(index < right),
        }
        for index, label in enumerate(gold)
    ]


def changed(at: int, **fields: Any) -> list[Row]:
    """Sixty rows, of which one differs."""
    found = rows(30)
    found[at] |= fields
    return found


def without(at: int, field: str) -> list[Row]:
    found = rows(30)
    del found[at][field]
    return found


def test_json_is_one_comparison_of_the_report(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write("champion", rows(15)), write("challenger", rows(45)[::-1])
    assert main([a, b, "--metric", "accuracy", "--cluster", "group", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(Comparison.__dataclass_fields__)
    assert (found["a"], found["b"], found["task"], found["metric"]) == (
        "champion",
        "challenger",
        None,
        "accuracy",
    )
    assert (found["delta"], found["value_a"], found["value_b"]) == (0.5, 0.25, 0.75)
    assert (found["n"], found["n_groups"], found["effective_groups"]) == (60, 20, 20.0)
    assert (found["verdict"], found["test"]) == ("better", "cluster bootstrap")
    assert 0 < found["ci_low"] < 0.5 < found["ci_high"] < 1
    assert found["p"] == found["p_adjusted"] < 0.01
    assert found["mcnemar_p"] == pytest.approx(2**-29)  # 30 rows fixed, none broken
    assert main([b, a, "--metric", "accuracy", "--json"]) == 0
    mirrored = json.loads(capsys.readouterr().out)
    assert (mirrored["delta"], mirrored["verdict"]) == (-0.5, "worse")


@pytest.mark.parametrize(
    ("metric", "delta"),
    # hand: recall 1/4 and 3/4, precision 1 as strays are no labels: F1 0.4 and 6/7; micro counts them: 0.25, 0.75
    [("macro_f1", 6 / 7 - 0.4), ("micro_f1", 0.5), ("mean_score", 0.5), ("exact_match", 0.5)],
)
def test_metrics_by_hand(metric: str, delta: float, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write("a", rows(15)), write("b", rows(45)), "--metric", metric, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["delta"] == pytest.approx(delta, abs=0.005)


def test_lists_of_labels_count_label_by_label(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Gold {x, y} or {y}: A says x always, B what is right. A: x 2/3 (precision 1/2), y 0; micro 2*10/(30+20)."""
    gold = [["x", "y"], ["y"]] * 10
    a, b = (
        [
            {"id": index, "group": index, "gold": right, "prediction": said}
            for index, (right, said) in enumerate(zip(gold, answers, strict=True))
        ]
        for answers in ([["x"]] * 20, gold)
    )
    files = write("a", a), write("b", b)
    for metric, value in (("macro_f1", 1 / 3), ("micro_f1", 0.4)):
        assert main([*files, "--metric", metric, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["value_a"] == pytest.approx(value)


def test_words_for_a_reader(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = write("champion", rows(15)), write("challenger", rows(45))
    more = ["--margin", "0.02", "--seeds", write("other_seed", rows(51))]
    assert main([*files, "--metric", "accuracy", *more]) == 0
    out = capsys.readouterr().out
    assert "champion reaches 25.0 %, challenger 75.0 %." in out
    assert "Verdict: better. challenger is better than champion, beyond what chance explains." in out
    assert "The difference is +50.0 points; the 95 % interval runs from +" in out
    assert "A loss of 2.0 points or more is excluded." in out
    assert "Over 2 training seeds the difference has a standard deviation of 7.1 points" in out
    assert SECRET not in out


def test_min_gain_and_no_gate(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = write("a", rows(15)), write("b", rows(45))
    assert main([*files, "--metric", "accuracy", "--min-gain", "0.6"]) == 0
    assert "Verdict: inconclusive" in capsys.readouterr().out


def test_a_task_is_chosen_where_there_are_several(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    both = [row | {"task": task} for task in ("label", "spans") for row in rows(30)]
    files = write("a", both), write("b", both)
    assert main([*files, "--metric", "accuracy"]) == 2
    assert "several tasks, such as label and spans; add --task NAME" in capsys.readouterr().err
    assert main([*files, "--metric", "accuracy", "--task", "spans", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["n"], found["verdict"]) == ("spans", 60, "inconclusive")
    assert main([*files, "--metric", "accuracy", "--task", "other"]) == 4
    assert "has no rows of task other" in capsys.readouterr().err


def test_empty_answers_are_wrong_and_no_error(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    empty = [row | {"prediction": said} for row, said in zip(rows(60), ["", None] * 30, strict=True)]
    assert main([write("a", empty), write("b", rows(60)), "--metric", "accuracy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["value_a"], found["delta"], found["verdict"]) == (0.0, 1.0, "better")


@pytest.mark.parametrize(
    ("broken", "metric", "message"),
    [
        (rows(30)[:-1], "accuracy", r"b.jsonl lacks 1 of the other arm's ids, the first is r59"),
        ([*rows(30), rows(30)[3]], "accuracy", r"b.jsonl:61: id r3 stands on line 4 already"),
        ([row | {"id": f"x{row['id']}"} for row in rows(30)], "accuracy", "lacks 60 of the other arm's ids"),
        (changed(7, gold="gpl"), "accuracy", "id r7 has another 'gold'"),
        (changed(7, group="other"), "accuracy", "id r7 has another 'group'"),
        (without(4, "gold"), "accuracy", "b.jsonl:5: field 'gold' is missing"),
        (without(4, "prediction"), "macro_f1", "b.jsonl:5: field 'prediction' is missing"),
        (without(4, "group"), "macro_f1", "b.jsonl:5: field 'group' is missing"),
        (without(4, "id"), "macro_f1", "b.jsonl:5: field 'id' is missing"),
        (without(4, "score"), "mean_score", "b.jsonl:5: field 'score' is missing"),
        (changed(4, score=float("nan")), "mean_score", "b.jsonl:5: field 'score' is NaN or infinite"),
        (changed(4, score=float("nan")), "accuracy", "b.jsonl:5: field 'score' is NaN or infinite"),
        (changed(4, score="1"), "mean_score", "b.jsonl:5: field 'score' is of type str"),
        (changed(4, gold=None), "accuracy", "b.jsonl:5: field 'gold' is null"),
        (changed(4, prediction={"a": SECRET}), "accuracy", "b.jsonl:5: field 'prediction' is of type dict"),
        (changed(4, prediction=[SECRET, 3]), "accuracy", "b.jsonl:5: field 'prediction' is of type list"),
        (changed(4, prediction=[{"text": SECRET}]), "macro_f1", "answers are lists of spans"),
        (changed(4, id=""), "accuracy", "b.jsonl:5: field 'id' is empty"),
        ([], "accuracy", "b.jsonl has no rows"),
    ],
)
def test_bad_rows_are_one_line_each(
    broken: list[Row], metric: str, message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write("a", rows(30)), write("b", broken), "--metric", metric]) == 4
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert SECRET not in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f'{{"id": "{SECRET}', "a.jsonl:2: not JSON (JSONDecodeError, 20 bytes)"),
        ("[1, 2]", "a.jsonl:2: list instead of an object"),
        ("[" * 100_000, "a.jsonl:2: not JSON (RecursionError, 100001 bytes)"),
    ],
)
def test_broken_lines_are_named_not_shown(
    line: str, message: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(rows(1)[0]) + "\n" + line + "\n")
    assert main([str(path), write("b", rows(30)), "--metric", "accuracy"]) == 4
    err = capsys.readouterr().err
    assert message in err
    assert SECRET not in err


def test_what_cannot_be_told_apart_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    one_group = [row | {"group": "g"} for row in rows(30)]
    assert main([write("a", one_group), write("b", one_group), "--metric", "accuracy"]) == 4
    assert "all test rows are in one group" in capsys.readouterr().err
    one_label = [row | {"gold": SECRET} for row in rows(30)]
    assert main([write("a", one_label), write("b", one_label), "--metric", "macro_f1"]) == 4
    err = capsys.readouterr().err
    assert "all 60 gold answers are the same" in err
    assert SECRET not in err


def test_wrong_commands_are_usage_errors(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write("a", rows(30))
    assert main([a, str(tmp_path / "nowhere.jsonl"), "--metric", "accuracy"]) == 2
    assert "nowhere.jsonl cannot be read: No such file or directory" in capsys.readouterr().err
    for wrong in ([a, a], [a, a, "--metric", "bleu"], [a, a, "--metric", "accuracy", "--margin", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_small_losses_are_no_minus_zero(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = write("a", rows(30)), write("b", rows(30))
    assert main([*files, "--metric", "accuracy"]) == 0
    out = capsys.readouterr().out
    assert "The difference is +0.0 points; the 95 % interval runs from +0.0 points to +0.0 points." in out
    assert "would come up in 10 of 10 test sets" in out
    assert "Which gain such a test set would show cannot be told" in out
