import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from finetune.errors import RefusedError
from finetune.expected import Expected
from finetune.log_rows import read_ends, restored, told
from finetune.metrics import HISTORY
from finetune.run_log import RunLog
from finetune.tracking import Values

EXPECTED = Expected(
    tokens=range(0, 1100, 100),
    trained_tokens=range(0, 110, 10),
    flops=[5e9 * step for step in range(11)],
    peak_gib=2.0,
    bf16_tflops=1.0,
)


class Sent:
    """Keeps what a tracker gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, Values]] = []

    def log(self, values: Values, step: int | None = None) -> None:
        self.rows.append((step, values))

    def table(self, name: str, columns: Any, rows: Any) -> None:
        raise AssertionError("training has no tables")


class Run:
    """A RunLog and the trainer's calls of it."""

    def __init__(self, start: int = 0, history: Any = None) -> None:
        self.stream, self.sent = io.StringIO(), Sent()
        self.log = RunLog(self.stream, self.sent, EXPECTED, history=history)
        self.state = TrainerState(global_step=start, max_steps=10)
        self.log.on_train_begin(None, self.state, None)

    def step(self, step: int, loss: float = 0.5, **more: float) -> None:
        self.state.global_step = step
        control = TrainerControl()
        self.log.on_step_end(None, self.state, control)
        self.log.on_log(
            None, self.state, control, {"loss": loss, "grad_norm": 1.0, "learning_rate": 0.1, **more}
        )

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_the_first_line_says_what_the_run_is_going_to_take() -> None:
    (header,) = Run().rows()
    assert {key: header[key] for key in ("total_steps", "total_tokens", "planned_peak_gib")} == {
        "total_steps": 10,
        "total_tokens": 1000,
        "planned_peak_gib": 2.0,
    }


def test_a_row_has_every_metric_of_training_and_the_tracker_gets_the_same() -> None:
    run = Run()
    time.sleep(0.01)
    run.step(2)
    row = run.rows()[1]
    assert set(row) == {"step", "seconds", *(name for name in HISTORY if name.startswith("train/"))}
    assert (row["train/tokens"], row["train/trained_tokens"], row["train/loss"]) == (200, 20, 0.5)
    assert run.sent.rows == [(2, {name: row[name] for name in row if "/" in name})]


def test_the_share_of_the_hardware_is_what_the_steps_need_over_what_it_could_do() -> None:
    run = Run()
    time.sleep(0.01)
    run.step(4)
    row = run.rows()[1]
    # 5e9 FLOPs a step of 100 tokens, on 1e12 a second
    assert row["train/mfu"] == pytest.approx(row["train/tokens_per_s"] * 5e7 / 1e12)
    assert row["train/peak_memory_over_plan"] == pytest.approx(row["train/peak_memory_gib"] / 2.0)


def test_the_peak_is_this_process_and_not_what_loading_held() -> None:
    held = bytearray(600 * 2**20)  # written zeros: resident
    held[::4096] = b"x" * len(held[::4096])
    del held
    run = Run()
    run.step(1)
    before = run.rows()[1]["train/peak_memory_gib"]
    more = bytearray(300 * 2**20)
    more[::4096] = b"x" * len(more[::4096])
    run.step(2)
    assert run.rows()[2]["train/peak_memory_gib"] == pytest.approx(before + 300 / 1024, abs=0.1)


def test_a_resumed_run_counts_from_its_step_and_its_rates_are_its_own() -> None:
    history = [{"total_steps": 10}, {"step": 6, "seconds": 3600.0, "train/loss": 1.0}]
    run = Run(start=6, history=history)
    time.sleep(0.05)
    run.step(7)
    (row,) = run.rows()  # no second header
    assert (row["step"], row["train/tokens"]) == (7, 700)
    assert 3600 < row["seconds"] < 3660
    assert row["train/tokens_per_s"] == row["train/tokens_per_s_total"]
    assert row["train/tokens_per_s"] < 100 / 0.05  # 100 tokens, not 700


def test_the_recent_speed_forgets_what_was_ten_rows_ago() -> None:
    run = Run()
    run.log.window[0] = (0, -100.0)  # as if the first step had taken 100 s
    run.step(1)
    slow = run.rows()[-1]["train/tokens_per_s"]
    for step in range(2, 11):
        run.step(step)
    run.step(10)  # the eleventh row
    assert slow < 1.1
    assert run.rows()[-1]["train/tokens_per_s"] > 1000


def test_a_pause_takes_no_time_of_the_steps() -> None:
    run = Run()
    with run.log.pause():
        time.sleep(0.5)
    run.step(1)
    assert run.rows()[1]["train/tokens_per_s"] > 100 / 0.4


def test_validation_gets_a_row_of_its_own() -> None:
    run = Run()
    run.state.global_step = 5
    run.log.on_log(None, run.state, None, {"val/loss": 0.25, "val/exact_match": 0.75})
    row = run.rows()[1]
    assert (row["step"], row["val/loss"], row["val/exact_match"]) == (5, 0.25, 0.75)
    assert "train/tokens" not in row


def test_a_loss_that_is_no_number_stops_the_run_and_is_in_the_log() -> None:
    run = Run()
    run.step(1)
    with pytest.raises(RefusedError, match="step 2: loss or gradient is not a number") as error:
        run.step(2, loss=float("nan"))
    assert error.value.exit_code == 3
    assert [row["step"] for row in run.rows()[1:]] == [1, 2]


def test_the_last_line_says_where_the_run_ended(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(start=8)
    run.step(9)  # within 15 s of the start: no line
    run.step(10)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("  train 10/10, 0 s left, loss 0.500, ")
    assert " of 2.0 GiB planned" in line


def test_a_log_goes_on_from_what_the_checkpoint_holds_of_it(tmp_path: Path) -> None:
    log, checkpoint = tmp_path / "log.jsonl", tmp_path / "checkpoint"
    first = Run()
    first.step(5)
    checkpoint.mkdir()
    (checkpoint / "log.jsonl").write_text(first.log.text())
    first.step(6)
    log.write_text(first.stream.getvalue() + '{"step": 7')  # killed while writing
    rows = restored(log, checkpoint)
    assert [row.get("step") for row in rows] == [None, 5]
    assert log.read_text() == (checkpoint / "log.jsonl").read_text()
    again = Run(start=5, history=rows)
    again.step(6)
    assert again.log.text() == log.read_text() + again.stream.getvalue()
    log.unlink()  # a new machine
    assert restored(log, checkpoint) == rows
    assert log.is_file()
    assert restored(log, None) == []
    assert log.read_text() == ""


def test_the_ends_of_a_long_log_are_read_at_once_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("w") as stream:
        stream.write('{"total_steps": 20000}\n')
        for step in range(20000):
            stream.write(json.dumps({"step": step, "train/loss": 1.0}) + "\n")
        stream.write('{"step": 20000, "val/loss": 1.0}\n{"step": 20001, "tra')
    ends = read_ends(path)
    assert (ends.header["total_steps"], ends.last["step"]) == (20000, 19999)


def test_a_row_in_words() -> None:
    row = {"train/loss": 0.4123, "train/tokens_per_s": 2310.4, "train/peak_memory_gib": 41.24}
    assert told(row, 45.0) == "loss 0.412, 2,310 tokens/s, memory 41.2 of 45.0 GiB planned"
    assert told(row, None) == "loss 0.412, 2,310 tokens/s, memory 41.2 GiB"
