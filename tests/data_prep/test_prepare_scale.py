"""What must not change the rows: the number of workers, batches, a kill. And what must stop them: a frozen test set."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep import checks, corpus, spill, verify_split
from data_prep.prepare import prepare
from finetune.artifacts import Artifact
from finetune.config.data import ContaminationConfig
from finetune.config.plan import HardwareConfig
from finetune.config.schema import RunConfig
from finetune.errors import RefusedError

MakeRun = Callable[..., RunConfig]
Rows = list[dict[str, Any]]


def contents(artifact: Artifact) -> dict[str, str]:
    return {item["path"]: item["sha256"] for item in artifact.manifest.files}


def with_near_duplicates(rows: Rows) -> Rows:
    planted = [{**row, "text": " ".join([*row["text"].split()[:-1], "other"])} for row in rows[:12]]
    return rows + planted


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(verify_split, "BATCH_ROWS", 5)
    monkeypatch.setattr(checks, "BATCH_ROWS", 5)
    monkeypatch.setattr(spill, "HELD_PAIRS", 50)


def test_workers_and_batches_leave_no_trace_in_the_bytes(
    make_run: MakeRun, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(with_near_duplicates(rows), labels=["rent", "price"])
    whole = contents(prepare(run))
    small_pieces(monkeypatch)
    key = Path(run.paths.artifacts_root) / ".key"
    for workers in (1, 2, 3):
        run.hardware = HardwareConfig(workers=workers)
        run.paths.artifacts_root = str(tmp_path / f"artifacts{workers}")
        Path(run.paths.artifacts_root).mkdir()
        (Path(run.paths.artifacts_root) / ".key").write_bytes(key.read_bytes())
        (Path(run.paths.artifacts_root) / ".key").chmod(0o600)
        artifact = prepare(run)
        assert contents(artifact) == whole
        assert not (artifact.folder / "scratch").exists()


KILLED = """
import sys, time
from data_prep import pipeline
from data_prep.prepare import prepare
from finetune.stage import stage
def slow(*arguments):
    print("here", flush=True)
    time.sleep(60)
pipeline.{step} = slow
stage("prepare", prepare, sys.argv[1:])
"""


@pytest.mark.parametrize("step", ["divide", "prove", "facts"])
def test_a_killed_run_starts_again_to_the_same_bytes(tmp_path: Path, private: Path, step: str) -> None:
    argv = ["experiment=tiny", f"paths.runs={tmp_path / 'runs'}"]
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED.format(step=step), *argv]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("here" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    folder = next(path for path in (private / "artifacts" / "data" / "tiny_rows").iterdir() if path.is_dir())
    assert (folder / "scratch" / "texts.jsonl").stat().st_size > 0
    done = [
        subprocess.run(
            [sys.executable, "-m", "data_prep.prepare", *argv], cwd=root, check=True, capture_output=True
        )
    ]
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".jsonl", ".md")}
    (folder / "manifest.json").unlink()
    done.append(
        subprocess.run(
            [sys.executable, "-m", "data_prep.prepare", *argv], cwd=root, check=True, capture_output=True
        )
    )
    assert {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".jsonl", ".md")
    } == first
    assert not (folder / "scratch").exists()


def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from data_prep.parallel import mapped\n"
        "def work(batch):\n    open(sys.argv[1] + f'/{os.getpid()}', 'w').close(); time.sleep(60)\n"
        "if __name__ == '__main__':\n    list(mapped(work, [1, 2], 2))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    pids = tmp_path / "pids"
    pids.mkdir()
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, str(script), str(pids)], env=environment) as process:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        process.kill()
    wait_until(lambda: not any(Path(f"/proc/{path.name}").exists() for path in pids.iterdir()))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_frozen_test_set_refuses_other_rows(make_run: MakeRun, rows: Rows) -> None:
    run = make_run(rows)
    frozen = json.loads(prepare(run).path("report.json").read_text())["test_sha256"]
    run.data.split.test_sha256 = frozen
    again = prepare(run)
    assert json.loads(again.path("report.json").read_text())["test_sha256"] == frozen
    run.data.seed = 1
    with pytest.raises(RefusedError, match=f"data.split.test_sha256={frozen} freezes another"):
        prepare(run)


def test_what_repeats_a_public_item_is_not_trained_on(make_run: MakeRun, rows: Rows, tmp_path: Path) -> None:
    run = make_run(rows, contamination=ContaminationConfig(references=["public.jsonl"]))
    public = Path(run.paths.data_root) / "public.jsonl"
    public.write_text(json.dumps({"question": rows[3]["text"], "answer": "x"}) + "\n")
    artifact = prepare(run)
    assert artifact.manifest.counts["dropped"] == {"repeats a held-out text": 1}
    assert set(artifact.manifest.inputs) == {"source", "references"}
    public.write_text(
        json.dumps({"question": "nothing of the kind stands here at all", "answer": "x"}) + "\n"
    )
    other = prepare(run)
    assert other.manifest.counts["dropped"] == {}
    assert other.folder != artifact.folder


def test_a_held_out_row_that_training_covers_is_dropped_and_counted(make_run: MakeRun, rows: Rows) -> None:
    # a row of 12 words inside one of 40: Jaccard is below the threshold, and all of it stands in the long one
    for number in range(15):
        more = " ".join(f"more{number}w{word}" for word in range(28))
        rows[number + 15]["text"] = f"{rows[number]['text']} {more}"
    reported = prepare(make_run(rows))
    assert reported.manifest.counts["dropped"] == {}  # so short a text is only reported
    assert json.loads(reported.path("report.json").read_text())["contamination"]["review"] > 0
    artifact = prepare(make_run(rows, contamination=ContaminationConfig(drop_words=12)))
    report = json.loads(artifact.path("report.json").read_text())
    dropped = report["contamination"]["dropped"]
    assert dropped > 0
    assert report["dropped"] == {"stands in the training texts": dropped}
    train = artifact.path("train.jsonl").read_text()
    held_out = artifact.path("val.jsonl").read_text() + artifact.path("test.jsonl").read_text()
    texts = [json.loads(line)["messages"][-1]["content"] for line in held_out.splitlines()]
    assert not any(text in train for text in texts)
