"""What the stages of a whole walk left in wandb's files, read back by wandb's own command."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from team import Team

from finetune.metrics import HISTORY, JobType, unknown
from finetune.tracking import read_records

pytestmark = pytest.mark.pipeline
CANARY = 31415926
KEY = "feedface" * 5
JOBS = {"prepare": "data", "plan": "plans", "train": "adapters", "eval": "reports", "export": "exports"}


def run_files(team: Team, job: str) -> list[Path]:
    return sorted((team.folder / "runs" / "wandb").glob(f"offline-run-*-tiny-{job}-*/*.wandb"))


def written(team: Team) -> list[Path]:
    return [path for path in (team.folder / "runs").rglob("*") if path.is_file()]


def numbers(records: list[dict[str, Any]], kind: str, key: str) -> dict[str, Any]:
    """All values of all records of a kind, the later over the earlier, without wandb's own; of a table its file."""
    found: dict[str, Any] = {}
    for item in records:
        if item["type"] == kind:
            found |= item[kind][key]
    tables = [name.removesuffix("._type") for name, value in found.items() if value == "table-file"]
    flat = {f"{name}.": found[f"{name}.path"] for name in tables}
    kept = {name: value for name, value in found.items() if not name.startswith(("_", *flat))}
    return kept | {name.removesuffix("."): path for name, path in flat.items()}


@pytest.mark.parametrize("job", JOBS)
def test_each_stage_has_a_run_of_its_kind_in_the_group_of_the_experiment(
    walked: tuple[Team, str], job: str
) -> None:
    team, _ = walked
    found = run_files(team, job)
    path = found[-1]
    # train plans again, with the base that was fetched meanwhile
    assert len(found) == (2 if job == "plan" else 1)
    records = read_records(path)
    begun = next(item["run"] for item in records if item["type"] == "run")
    config = begun["config"]["update"]
    folder = team.current(JOBS[job], "tiny_rows" if job == "prepare" else "tiny")
    assert (begun["run_group"], begun["job_type"], begun["project"]) == ("tiny", job, "hallmark")
    assert (begun["run_id"], config["run"]) == (f"tiny-{job}-{folder.name}", folder.name)
    made = json.loads((folder / "manifest.json").read_text())
    assert {key: item["content"] for key, item in config["inputs"].items()} == {
        key: item["content"] for key, item in made["inputs"].items()
    }
    assert set(made["config"]) <= set(config)
    summary = numbers(records, "summary", "update")
    assert summary
    assert not unknown(summary, JobType(job))
    assert records[-1]["exit"]["exit_code"] == 0


def test_wandb_holds_the_rows_of_the_log(walked: tuple[Team, str]) -> None:
    header, *log = [
        json.loads(line) for line in (walked[0].current("adapters") / "log.jsonl").read_text().splitlines()
    ]
    records = read_records(run_files(walked[0], "train")[0])
    history = [item["history"]["item"] for item in records if item["type"] == "history"]
    assert [row["step"] for row in log] == [row["_step"] for row in history] == [5, 10, 15, 20, 25, 30]
    assert header["total_steps"] == 30
    assert log[-1]["train/loss"] < log[0]["train/loss"] / 10
    for mine, theirs in zip(log, history, strict=True):
        known = {name: mine[name] for name in HISTORY if mine.get(name) is not None}
        assert known == {name: theirs[name] for name in theirs if not name.startswith("_")}
    counts = json.loads((walked[0].current("adapters") / "manifest.json").read_text())["counts"]
    assert (log[-1]["train/tokens"], log[-1]["train/trained_tokens"]) == (
        counts["tokens"],
        counts["trained_tokens"],
    )


def test_the_summaries_are_those_of_the_reports(walked: tuple[Team, str]) -> None:
    team, _ = walked
    data, report, fidelity = (
        json.loads((folder / name).read_text())
        for folder, name in (
            (team.current("data", "tiny_rows"), "report.json"),
            (team.current("reports"), "report.json"),
            (team.current("exports"), "fidelity.json"),
        )
    )
    found = {
        job: numbers(read_records(run_files(team, job)[0]), "summary", "update")
        for job in ("prepare", "eval", "export")
    }
    assert found["prepare"]["prepare/rows_train"] == data["splits"]["train"]["rows"]
    assert found["eval"]["eval/verdict"] == report["verdict"]
    assert (
        found["eval"]["eval/clause/adapter/exact_match"] == report["arms"]["adapter"]["clause"]["exact_match"]
    )
    assert (found["export"]["export/kl"], found["export"]["export/passed"]) == (fidelity["mean_kl"], True)
    table = json.loads(
        (run_files(team, "eval")[0].parent / "files" / found["eval"]["eval/table/arms"]).read_text()
    )
    told = {(task, arm, metric): value for task, arm, metric, value in table["data"]}
    assert {arm for _, arm, _ in told} == set(report["arms"])
    assert told["clause", "base", "macro_f1"] == report["arms"]["base"]["clause"]["macro_f1"]


def test_no_private_text_is_in_any_file_that_wandb_wrote(walked: tuple[Team, str]) -> None:
    """Rows, their labels and groups, file and field names, folders, texts of the configuration, the key."""
    team, _ = walked
    private = [b"the party shall", b"agreement number", b"franchise", b"Clause ", b"payment", b"contract-"]
    private += [b"rows.jsonl", b"private-attribution-2718", KEY.encode()]
    private += [str(team.folder / name).encode() for name in ("data", "conf", "models", "artifacts")]
    texts = {path: path.read_bytes() for path in written(team)}
    assert len(texts) >= 5 * 4
    assert sum(path.suffix == ".wandb" for path in texts) >= 5
    assert sum(path.name.endswith(".table.json") for path in texts) >= 2
    leaks = {(path.name, text) for path, content in texts.items() for text in private if text in content}
    assert not leaks
    # and the files are searchable: what is meant to be there is found as it is
    config = next(path for path in texts if "tiny-train" in path.name and path.suffix == ".wandb")
    assert b"tiny_llama" in texts[config]
    assert b"train/loss" in texts[config]


def test_wandb_does_not_record_the_command_line(breakable: Team) -> None:
    shutil.rmtree(breakable.folder / "runs")
    done = breakable.stage("train", "train.max_steps=1", f"train.seed={CANARY}")
    assert done.returncode == 0, done.stderr
    assert written(breakable)
    assert not [path for path in written(breakable) if b"train.seed=" in path.read_bytes()]


def test_a_stage_with_nothing_to_do_opens_no_run(breakable: Team) -> None:
    shutil.rmtree(breakable.folder / "runs")
    for job in JOBS:
        assert breakable.stage(job).returncode == 0
    assert written(breakable) == []


def test_a_killed_training_run_goes_on_in_wandb_and_repeats_no_step(breakable: Team) -> None:
    shutil.rmtree(breakable.folder / "runs")
    settings = ["train.max_steps=40", "train.log_every_steps=1", "train.save_every_steps=3"]
    before = set((breakable.folder / "artifacts/adapters/tiny").iterdir())
    process = breakable.start("train", *settings)
    try:
        wait_until(lambda: any((breakable.folder / "artifacts/adapters/tiny").glob("*/checkpoints/step-*6")))
    finally:
        process.kill()
        process.wait()
    (folder,) = set((breakable.folder / "artifacts/adapters/tiny").iterdir()) - before
    assert not (folder / "manifest.json").exists()
    assert breakable.stage("train", *settings).returncode == 0
    first, second = run_files(breakable, "train")
    history = [
        item["history"]["item"]
        for path in (first, second)
        for item in read_records(path)
        if item["type"] == "history"
    ]
    header, *log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert header["total_steps"] == 40
    assert [row["step"] for row in log] == [row["_step"] for row in history] == [*range(1, 41)]
    assert [row["train/loss"] for row in log] == [row["train/loss"] for row in history]
    assert [row["train/tokens"] for row in log] == sorted({row["train/tokens"] for row in log})


def wait_until(true: Callable[[], bool], seconds: int = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
