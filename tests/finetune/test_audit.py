"""The audit trail: what is recorded, and that no line of it can be changed, removed, added or moved unseen."""

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import artifacts, audit
from finetune.artifacts import Artifact, Spec, input_record
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import DataError, RefusedError
from finetune.show_audit import lines
from finetune.stage import stage


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return RunConfig(name="tiny", paths=PathsConfig("", "", str(tmp_path), str(tmp_path / "runs")))


def made(run: RunConfig, kind: str, seed: int = 0, forced: str = "", **inputs: Artifact) -> Artifact:
    records = {key: input_record(item) for key, item in inputs.items()}
    spec = Spec(kind, 1, "tiny", {kind: {"seed": seed}}, records)
    with artifacts.writing(run.paths, spec, move_current=True) as output:
        if output.finished is None:
            output.write_text("content.txt", f"{kind} {seed}")
            output.overrides = [forced] if forced else []
    return output.made()


def trail(run: RunConfig) -> Path:
    return audit.trail_of(run.paths, run.name)


def events(run: RunConfig) -> list[str]:
    return [" ".join((entry["event"], entry["stage"])) for entry in audit.read_trail(run.paths, run.name)]


def recorded(run: RunConfig) -> list[str]:
    """Five lines: data, an adapter that was forced, a refusal, a report."""
    data = made(run, "data")
    audit.record_finished(run, data, time.time())
    adapter = made(run, "adapter", forced="plan.force: why", data=data)
    audit.record_finished(run, adapter, time.time())
    audit.record_refused(run, "eval", ["eval.min_gain=0.1 says a Name"], time.time() + 60)
    audit.record_finished(run, made(run, "report", adapter=adapter), time.time())
    return trail(run).read_text().splitlines(keepends=True)


def test_one_line_a_stage_a_refusal_and_an_override(run: RunConfig) -> None:
    recorded(run)
    assert events(run) == [
        "finished data",
        "finished adapter",
        "override adapter",
        "refused eval",
        "finished report",
    ]
    assert trail(run).stat().st_mode & 0o777 == 0o600
    audit.record_finished(run, made(run, "report", adapter=made(run, "adapter", data=made(run, "data"))), 0.0)
    assert len(events(run)) == 5  # a finished stage that is repeated adds nothing


def test_a_refusal_names_settings_and_no_word_more(run: RunConfig) -> None:
    problems = [
        "eval.min_gain=0.1 says Mrs Hidden of train.mix.hidden_set",
        "look at rows.jsonl and eval.nothing",
    ]
    audit.record_refused(run, "eval", problems, time.time())
    (entry,) = audit.read_trail(run.paths, run.name)
    assert (entry["problems"], entry["settings"]) == (2, ["eval.min_gain", "train.mix"])
    assert "idden" not in trail(run).read_text()


def test_inputs_that_the_trail_does_not_know_go_before_what_was_made_of_them(run: RunConfig) -> None:
    data = made(run, "data")
    audit.record_finished(run, made(run, "report", adapter=made(run, "adapter", data=data)), time.time() + 60)
    assert events(run) == ["used data", "used adapter", "finished report"]


def test_what_was_written_before_a_refusal_is_recorded_with_it(run: RunConfig) -> None:
    since = time.time()
    made(run, "report", data=made(run, "data"))
    audit.record_refused(run, "eval", ["no"], since)
    assert events(run) == ["used data", "finished report", "refused eval"]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_changed_line_is_named(run: RunConfig, number: int) -> None:
    texts = recorded(run)
    entry = json.loads(texts[number - 1])
    forged = audit.canonical({**entry, "time": "2026-01-01T00:00:00+00:00"}) + "\n"
    trail(run).write_text("".join([*texts[: number - 1], forged, *texts[number:]]))
    with pytest.raises(DataError, match=rf"tiny\.jsonl line {number} was changed"):
        audit.read_trail(run.paths, run.name)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([1, 2, 3, 4], "line 1 says that it is line 2"),
        ([0, 1, 3, 4], "line 3 says that it is line 4"),
        ([0, 1, 2, 3], "line 5 is missing: 5 were written"),
        ([0, 2, 1, 3, 4], "line 2 says that it is line 3"),
        ([0, 1, 1, 2, 3, 4], "line 3 says that it is line 2"),
        ([], "line 1 is missing: 5 were written"),
    ],
)
def test_lines_that_were_removed_moved_or_added_are_named(
    run: RunConfig, order: list[int], told: str
) -> None:
    texts = recorded(run)
    trail(run).write_text("".join(texts[index] for index in order))
    with pytest.raises(DataError) as caught:
        audit.read_trail(run.paths, run.name)
    assert f"{trail(run)} {told}" in str(caught.value)
    assert caught.value.exit_code == 4


def test_one_flipped_bit_anywhere_in_the_trail_is_found(run: RunConfig) -> None:
    recorded(run)
    whole = trail(run).read_bytes()
    for place in range(0, len(whole), 7):
        trail(run).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"tiny\.jsonl"):
            audit.read_trail(run.paths, run.name)


def test_a_line_that_a_killed_process_left_half_is_written_anew(run: RunConfig) -> None:
    texts = recorded(run)
    with trail(run).open("a") as stream:
        stream.write(texts[0][:50])
    assert len(audit.read_trail(run.paths, run.name)) == 5
    audit.record_refused(run, "eval", ["no"], time.time())
    assert len(audit.read_trail(run.paths, run.name)) == 6
    head = trail(run).with_suffix(".head")
    kept = head.read_text()
    audit.record_refused(run, "eval", ["no"], time.time())
    head.write_text(kept)  # killed between the line and the head
    assert len(audit.read_trail(run.paths, run.name)) == 7
    head.unlink()
    with pytest.raises(DataError, match=r"tiny\.head is missing"):
        audit.read_trail(run.paths, run.name)


def _refuse(root: str, count: int) -> None:
    run = RunConfig(name="tiny", paths=PathsConfig("", "", root))
    for _ in range(count):
        audit.record_refused(run, "eval", ["no"], time.time())


def test_stages_that_write_at_once_take_turns(run: RunConfig) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_refuse, args=(run.paths.artifacts_root, 10)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [entry["index"] for entry in audit.read_trail(run.paths, run.name)] == list(range(30))


def test_an_entry_costs_milliseconds(run: RunConfig) -> None:
    for seed in range(20):
        audit.record_finished(run, made(run, "data", seed), time.time())
    data = made(run, "data", 21)
    started = time.process_time()  # not the time that a busy disk takes
    audit.record_finished(run, data, time.time())
    assert time.process_time() - started < 0.02


def test_the_history_follows_the_export_and_a_changed_manifest_is_found(run: RunConfig) -> None:
    recorded(run)
    other = made(run, "adapter", 7)
    audit.record_finished(run, other, time.time())
    told = list(lines(run))
    assert "6 entries" in told[0]
    assert "refused   eval: 1 problems, over eval.min_gain" in told[4]
    assert told[-1] == "no export yet; run `make export CONF=tiny`"
    path = other.path("manifest.json")
    path.write_text(path.read_text().replace('"host": "', '"host": "x'))
    with pytest.raises(DataError, match=r"manifest\.json is not the one that .*tiny\.jsonl line 6 recorded"):
        list(lines(run))


def test_every_stage_is_recorded_through_its_entry_point(
    private: Path, argv: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: RunConfig) -> None:
        raise RefusedError("eval.min_gain=1 is not met")

    def make(run: RunConfig) -> Artifact:
        return made(run, "data")

    def entries() -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (private / "artifacts/audit/tiny.jsonl").read_text().splitlines()
        ]

    assert stage("prepare", make, argv()) == 0
    assert stage("prepare", make, argv()) == 0
    assert stage("eval", refuse, argv()) == 3
    assert [entry["event"] for entry in entries()] == ["finished", "refused"]
    path = private / "artifacts/audit/tiny.jsonl"
    path.write_text(path.read_text().replace('"problems":1', '"problems":2'))
    capsys.readouterr()
    assert stage("prepare", make, argv()) == 4
    assert f"error: {path} line 2 was changed after it had been written" in capsys.readouterr().err
