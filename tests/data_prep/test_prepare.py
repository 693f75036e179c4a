"""The whole stage on tables made here: what is written, what is refused, what a rerun does."""

import json
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from finetune.artifacts import Artifact
from finetune.config.data import ContaminationConfig, NearDuplicateConfig
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError, DataError, RefusedError
from finetune.rows import read_rows

SIDES = ("train", "val", "test")
MakeRun = Callable[..., RunConfig]
Rows = list[dict[str, Any]]


def lines(artifact: Artifact, name: str) -> Rows:
    return [json.loads(line) for line in artifact.path(name).read_text().splitlines()]


def side_of_text(artifact: Artifact) -> dict[str, str]:
    return {
        row["messages"][-1]["content"]: side
        for side in SIDES
        for row in read_rows(artifact.path(f"{side}.jsonl"))
    }


def split_by_source(artifact: Artifact) -> dict[int, str]:
    """Outcome of every document by where it starts: what must not depend on the key."""
    return {line["start"]: line["outcome"] for line in lines(artifact, "ledger.jsonl")}


def test_rows_follow_the_contract(make_run: MakeRun, rows: Rows) -> None:
    rows[0]["text"] = "clause {0} of {text} ends"
    artifact = prepare(make_run(rows, system="Name it.", prompt="Read: {text}\nKind?"))
    found = [row for side in SIDES for row in read_rows(artifact.path(f"{side}.jsonl"))]
    row = next(row for row in found if "clause" in row["messages"][1]["content"])
    assert row["messages"] == [
        {"role": "system", "content": "Name it."},
        {"role": "user", "content": "Read: clause {0} of {text} ends\nKind?"},
    ]
    assert row["target"] == "rent"
    assert set(row) == {"id", "group", "messages", "target", "sources", "document"}
    first_line = json.dumps(rows[0])
    assert row["sources"][0]["start"] == 0
    assert row["sources"][0]["end"] == len(first_line)
    assert len({row["id"] for row in found}) == len(found) == 30
    assert all(len(row[key]) == 16 for row in found for key in ("id", "group", "document"))


def test_no_system_turn_where_none_is_configured(make_run: MakeRun, rows: Rows) -> None:
    row = read_rows(prepare(make_run(rows)).path("train.jsonl"))[0]
    assert [turn["role"] for turn in row["messages"]] == ["user"]


def test_every_document_is_a_row_or_a_drop_with_its_reason(make_run: MakeRun, rows: Rows) -> None:
    rows.append({**rows[3], "text": rows[3]["text"].upper()})  # exact duplicate of row 3
    rows += [{**rows[5], "target": "rent"}]  # row 5 says price: both fall
    rows += [{"text": "only one of its kind", "target": "oddity", "contract": "x"}]
    rows += [{"text": "\u200b \u0007", "target": "rent", "contract": "y"}]
    artifact = prepare(make_run(rows, min_label_rows=2))
    dropped = lines(artifact, "dropped.jsonl")
    assert Counter(line["reason"] for line in dropped) == {
        "equal text, different targets": 2,
        "exact duplicate": 1,
        "label with fewer than 2 rows": 1,
        "no text left after normalising": 1,
    }
    made = sum(artifact.manifest.counts["splits"][side]["rows"] for side in SIDES)
    assert made + len(dropped) == artifact.manifest.counts["read"] == 34
    ledger = lines(artifact, "ledger.jsonl")
    assert len({line["document"] for line in ledger}) == len(ledger) == 34
    assert {line["document"] for line in dropped} == {line["document"] for line in ledger if "reason" in line}
    assert {line["path"] for line in ledger} == {"t.jsonl"}


def test_a_group_never_stands_on_two_sides(make_run: MakeRun, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["contract"] = f"contract-{number // 3}"
    side_of = side_of_text(prepare(make_run(rows, group_field="contract")))
    for number in range(0, 30, 3):
        assert len({side_of[row["text"]] for row in rows[number : number + 3]}) == 1


def test_a_dropped_duplicate_ties_its_group_to_the_kept_one(make_run: MakeRun, rows: Rows) -> None:
    copies = [
        {"text": row["text"], "target": row["target"], "contract": "annex"} for row in (rows[1], rows[2])
    ]
    artifact = prepare(make_run(rows + copies, group_field="contract"))
    side_of = side_of_text(artifact)
    assert side_of[rows[1]["text"]] == side_of[rows[2]["text"]]
    assert artifact.manifest.counts["components"] == {
        "count": 29,
        "largest_rows": 2,
        "largest_fraction": 0.0667,
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_near_duplicate_never_stands_on_two_sides(make_run: MakeRun, rows: Rows, seed: int) -> None:
    # 12 words are 10 shingles; another last word keeps 9 of them, so Jaccard is 9 / 11 = 0.82
    planted = [{**row, "text": " ".join([*row["text"].split()[:-1], "other"])} for row in rows]
    artifact = prepare(make_run(rows + planted, seed=seed))
    side_of = side_of_text(artifact)
    assert len(side_of) == 60
    assert all(
        side_of[one["text"]] == side_of[other["text"]] for one, other in zip(rows, planted, strict=True)
    )
    report = json.loads(artifact.path("report.json").read_text())
    assert report["near_duplicates"]["joined"] == 30
    assert report["components"]["count"] == 30
    assert report["random_split"]["test_rows_leaked"] > 0


def test_same_seed_same_split_under_any_key_and_another_seed_another(make_run: MakeRun, rows: Rows) -> None:
    run = make_run(rows)
    first = prepare(run)
    ids = {row["id"] for row in read_rows(first.path("train.jsonl"))}
    split, order = split_by_source(first), [row["target"] for row in read_rows(first.path("train.jsonl"))]
    run.paths.artifacts_root += "-other-key"
    second = prepare(run)
    assert split_by_source(second) == split
    assert [row["target"] for row in read_rows(second.path("train.jsonl"))] == order
    assert ids.isdisjoint(row["id"] for row in read_rows(second.path("train.jsonl")))
    run.data.seed = 1
    assert split_by_source(prepare(run)) != split


def test_an_unchanged_rerun_does_nothing(
    make_run: MakeRun, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(rows)
    first = prepare(run)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir() if path.name != ".lock"}
    capsys.readouterr()
    second = prepare(run)
    assert second.manifest == first.manifest
    assert {
        path.name: path.stat().st_mtime_ns for path in first.folder.iterdir() if path.name != ".lock"
    } == before
    assert capsys.readouterr().out.startswith("nothing to do")


def test_a_rerun_after_the_manifest_is_gone_writes_the_same_bytes(make_run: MakeRun, rows: Rows) -> None:
    run = make_run(rows)
    first = prepare(run)
    before = {item["path"]: first.path(item["path"]).read_bytes() for item in first.manifest.files}
    first.path("manifest.json").unlink()
    first.path("train.jsonl").write_text("half")
    second = prepare(run)
    assert {name: second.path(name).read_bytes() for name in before} == before
    assert set(before) == {f"{side}.jsonl" for side in SIDES} | {
        "dropped.jsonl",
        "ledger.jsonl",
        "suspects.jsonl",
        "report.json",
        "card.md",
    }


def test_one_changed_byte_of_the_source_makes_another_run(make_run: MakeRun, rows: Rows) -> None:
    first = prepare(make_run(rows))
    rows[7]["text"] += "."
    assert prepare(make_run(rows)).folder != first.folder


def test_nobody_else_can_read_a_file(make_run: MakeRun, rows: Rows, tmp_path: Path) -> None:
    prepare(make_run(rows))
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "artifacts").rglob("*") if path.is_file()
    }
    assert modes == {0o600}


def test_an_oversized_component_is_refused(make_run: MakeRun, rows: Rows) -> None:
    for row in rows[:9]:
        row["contract"] = "framework"
    with pytest.raises(
        RefusedError, match=r"30\.0% of the rows \(9 of 30\).*max_component_fraction=0\.2"
    ) as refused:
        prepare(make_run(rows, group_field="contract"))
    assert "framework" not in str(refused.value)


def test_fewer_than_three_components_are_refused(make_run: MakeRun, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["contract"] = f"contract-{number % 2}"
    with pytest.raises(DataError, match="form 2 group"):
        prepare(make_run(rows, group_field="contract"))


def test_more_lost_than_the_budget_is_refused_and_sampling_is_no_loss(make_run: MakeRun, rows: Rows) -> None:
    copies = rows[:10]
    with pytest.raises(RefusedError, match=r"10 of 40 documents \(25\.0%\).*10 'exact duplicate'"):
        prepare(make_run(rows + copies, max_dropped_fraction=0.2))
    artifact = prepare(make_run(rows, max_dropped_fraction=0.2, max_rows=6))
    assert artifact.manifest.counts["dropped"] == {"not sampled": 24}
    assert artifact.manifest.counts["rows"] == 6


def test_only_the_rows_of_some_labels_are_kept_and_that_is_no_loss(make_run: MakeRun, rows: Rows) -> None:
    long = "obligations of the tenant that stand beside the rent and are" + " settled" * 5
    for row in rows[:9]:
        row["target"] = long
    kept = sum(row["target"] in ("rent", long) for row in rows)
    artifact = prepare(make_run(rows, only_labels=["rent", long], max_dropped_fraction=0.0))
    assert artifact.manifest.counts["dropped"] == {"label outside data.only_labels": len(rows) - kept}
    assert artifact.manifest.counts["rows"] == kept
    with pytest.raises(ConfigError, match="data.only_labels has 'rend', which no row has"):
        prepare(make_run(rows, only_labels=["rend"]))


def test_a_target_outside_the_set_names_its_line_and_not_its_content(make_run: MakeRun, rows: Rows) -> None:
    rows[4]["target"] = "secretlabel"
    with pytest.raises(
        DataError, match=r"t\.jsonl:5: field 'target', string of length 11, is not one of"
    ) as refused:
        prepare(make_run(rows, labels=["rent", "price"]))
    assert "secretlabel" not in str(refused.value)


def test_free_targets_stay_out_of_report_and_card(make_run: MakeRun, rows: Rows) -> None:
    artifact = prepare(make_run(rows))
    assert "rows" not in json.loads(artifact.path("report.json").read_text())["labels"]
    assert "`rent`" not in artifact.path("card.md").read_text()
    artifact = prepare(make_run(rows, labels=["rent", "price"]))
    assert "`rent`" in artifact.path("card.md").read_text()


def test_near_duplicate_settings_decide_what_is_joined(make_run: MakeRun, rows: Rows) -> None:
    rows[1]["text"] = " ".join([*rows[0]["text"].split()[:-1], "other"])
    rows[1]["target"] = rows[0]["target"]
    loose = prepare(make_run(rows, near_duplicates=NearDuplicateConfig(3, 0.8)))
    apart = ContaminationConfig(drop_coverage=1.0)  # else a copy on another side would be dropped
    strict = prepare(make_run(rows, near_duplicates=NearDuplicateConfig(3, 0.9), contamination=apart))
    assert loose.manifest.counts["components"]["count"] == 29
    assert strict.manifest.counts["components"]["count"] == 30


def test_the_same_labels_in_another_order_are_no_contradiction(make_run: MakeRun, rows: Rows) -> None:
    for row in rows:
        row["target"] = ["a", row["target"]]
    artifact = prepare(make_run([*rows, {**rows[3], "target": rows[3]["target"][::-1]}]))
    assert artifact.manifest.counts["dropped"] == {"exact duplicate": 1}
