"""From a report to a sheet, and from filled sheets back to a score, on a 2-layer Llama."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from house import House

from eval.evaluate import run as evaluate
from eval.experts.cells import cell
from eval.review import review
from finetune.artifacts.manifest import read_manifest
from finetune.stage import stage
from finetune.train import run as train

Command = Callable[..., int]
Row = dict[str, str]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> House:
    """A team's folder with a report whose arms differ."""
    house = House.built(tmp_path_factory.mktemp("team"), tiny_model_folder)
    with house.at_home():
        for name, body in (("train", train), ("eval", evaluate)):
            assert stage(name, body, house.argv()) == 0
    return house


@pytest.fixture
def team(evaluated: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A copy of it, at which the environment points."""
    copied = House(shutil.copytree(evaluated.folder, tmp_path / "team"))
    for key, value in tiny.environment(copied.folder).items():
        monkeypatch.setenv(key, value)
    return copied


@pytest.fixture
def private(team: House) -> Path:
    return team.folder


@pytest.fixture
def command(team: House) -> Command:
    """Runs `review`; the exit code."""
    return lambda *more: stage("review", review, team.argv("review.rows=8", *more))


def folder_of(private: Path) -> Path:
    parent = private / "artifacts/reviews/tiny"
    return parent / (parent / "current").read_text().strip()


def raw_answers(private: Path, report: str, arm: str) -> dict[str, str]:
    path = private / "artifacts/reports/tiny" / report / f"predictions_{arm}.jsonl"
    rows = map(json.loads, path.read_text().splitlines())
    return {row["id"]: row["raw"].strip() for row in rows}


def rows_of(path: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def save(path: Path, rows: list[Row], delimiter: str = ",") -> Path:
    """The sheet as a spreadsheet saves it."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_sheet_goes_out_comes_back_and_is_scored(
    command: Command, private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    folder = folder_of(private)
    out = capsys.readouterr().out
    assert "items, drawn from the" in out
    assert "the party shall" not in out
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "key.json",
        "manifest.json",
        "sheet.csv",
        "sheet.html",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    key, rows = json.loads((folder / "key.json").read_text()), rows_of(folder / "sheet.csv")
    assert len(rows) == len(key["items"]) == 8
    assert "the party shall" in rows[0]["prompt"]
    arms = {arm: raw_answers(private, key["report"], arm) for arm in ("base", "adapter")}
    for item, row in zip(key["items"], rows, strict=True):
        assert row["left"] == cell(arms[item["left"]][item["row"]])
        better = "left" if item["left"] == "adapter" else "right"
        row["better"] = better if item["item"] < 7 else ""
    rows[0]["comment"] = "clear;\nvery"
    one = save(private / "one.csv", rows, ";")
    rows[0]["better"] = "BOTH GOOD "
    two = save(private / "two.csv", rows[:4])

    assert command(f"review.file='{one},{two}'") == 0
    out = capsys.readouterr().out
    assert "6 of 8 items judged by 2; drawn from the" in out
    assert "choices: adapter 9, base 0, both good 1, both bad 0; rows won 6, lost 0, tied 0" in out
    assert "reviewers on 4 shared items: same 0.75" in out
    assert f"review: {folder}" not in out
    [scored] = (private / "artifacts/reviews/tiny").glob("*-scored")
    found = json.loads((scored / "review.json").read_text())
    assert (found["schema"], found["verdict"], found["judged"]) == (1, "inconclusive", 6)
    lines = [json.loads(line) for line in (scored / "judgements.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "reviewer": 1,
        "id": key["items"][0]["row"],
        "choice": "adapter",
        "comment": "clear;\nvery",
    }
    assert read_manifest(scored, "").inputs["review"]["run"] == folder.name
    assert folder_of(private) == folder

    before = (folder / "sheet.csv").stat().st_mtime_ns
    assert command() == 0
    assert (folder / "sheet.csv").stat().st_mtime_ns == before


def test_what_is_not_the_sheet_that_was_given_out_is_refused(
    command: Command, private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    rows = rows_of(folder_of(private) / "sheet.csv")
    sheet = folder_of(private).name

    def refused(changed: list[Row], code: int = 4) -> str:
        path = save(private / "back.csv", changed)
        capsys.readouterr()
        assert command(f"review.file={path}") == code
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the party shall" not in line
        return line.replace(str(path), "back.csv")

    def edited(**cells: str) -> list[Row]:
        return [rows[0] | cells, *rows[1:]]

    assert "back.csv:2: prompt or answers of item 1 are not those" in refused(edited(left="a canary"))
    assert "back.csv:2: column 'better' has 6 characters and is none of" in refused(edited(better="canary"))
    assert "stands at" in refused([*rows, rows[0]])
    assert "the sheet has no item 99" in refused(edited(item=f"{sheet}-99"))
    assert "column 'item' holds no item of a sheet" in refused(edited(item="../../etc-1"))
    assert "an item of sheet 0a1b2c3d" in refused([*rows[1:], rows[0] | {"item": "0a1b2c3d-01"}])
    assert "sheet 0a1b2c3d was not given out by tiny" in refused([rows[0] | {"item": "0a1b2c3d-01"}], 2)
    assert "column 'better' is missing" in refused(
        [{key: row[key] for key in ("item", "prompt", "left", "right")} for row in rows]
    )
    assert "no item is judged" in refused(rows)


def test_files_that_cannot_be_read_or_count_twice_are_refused(
    command: Command, private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (private / "latin.csv").write_bytes("item,prompt\né".encode("latin-1"))
    (private / "open.csv").write_text('item,prompt,left,right,better\n"0a1b2c3d-01,x\n')
    (private / "same.csv").write_text("item")
    (private / "again.csv").write_text("item")
    (private / "none").mkdir()
    for given, code, message in (
        (f"{private / 'latin.csv'}", 4, "save it as `CSV UTF-8`"),
        (f"{private / 'open.csv'}", 4, "open.csv:2: no CSV record"),
        (f"'{private / 'same.csv'},{private / 'again.csv'}'", 2, "is the same as"),
        (f"{private / 'none'}", 2, "holds no .csv"),
        ("nothing.csv", 2, "nothing.csv is not a file"),
    ):
        assert command(f"review.file={given}") == code
        assert message in capsys.readouterr().err
    assert command("review.against=champion") == 2
    expected = (
        "holds no answers of it and of the adapter; one of: adapter_few_shot, base, few_shot, majority, svm"
    )
    assert expected in capsys.readouterr().err
    assert command("review.against=../x", "review.rows=0") == 2
    refused = capsys.readouterr().err
    assert "review.against=../x must be another arm" in refused
    assert "review.rows=0 must be above 0" in refused


def test_a_sheet_of_another_report_is_refused_unless_that_is_named(
    command: Command, team: House, private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    rows = rows_of(folder_of(private) / "sheet.csv")
    rows[0]["better"] = "left"
    filled = f"review.file={save(private / 'back.csv', rows)}"
    old = (private / "artifacts/reports/tiny/current").read_text().strip()
    assert stage("eval", evaluate, team.argv("eval.seed=1")) == 0
    assert command("eval.seed=1", filled) == 2
    assert f"is of report {old}, not of" in capsys.readouterr().err
    assert command(f"run={old}", filled) == 4  # one judged row is one group
    assert "in one group" in capsys.readouterr().err
