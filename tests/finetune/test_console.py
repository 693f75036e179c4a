import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from finetune import console
from finetune.console import PlainProgress, clock, live

ROOT = Path(__file__).resolve().parents[2]
WORK = """
from finetune.console import live, say
import time
work = live("train", 30, start=12)
for step in range(13, 30):
    work.update(step, "loss 0.500, [2] tokens/s", left_s=90)
    time.sleep(0.1)
say("a line in between")
{end}
"""


def on_a_terminal(code: str, columns: int = 160) -> str:
    """What a process writes to its terminal, control sequences and all."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                found = os.read(ours, 65536)
            except OSError:  # the other end is closed
                return
            shown.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment, timeout=60)
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    return b"".join(shown).decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_gets_a_bar_that_starts_where_the_run_goes_on() -> None:
    text = plain(on_a_terminal(WORK.format(end="work.update(30, 'loss 0.400', left_s=0); work.close()")))
    drawn = re.findall(r"(\d+)/30", text)
    assert drawn[0] == "12"
    assert "loss 0.400" in text
    assert drawn[-1] == "30"
    assert len(drawn) < 10  # once a second, not once a step
    assert "1 min left, loss 0.500, [2] tokens/s" in text
    assert "a line in between" in text


def test_a_narrow_terminal_shows_the_step_and_the_time_left() -> None:
    text = plain(on_a_terminal(WORK.format(end="work.close()"), columns=60))
    assert re.search(r"train 13/30 \S+ +1 min left, loss 0.5", text)


def test_the_terminal_is_left_as_it_was_when_the_work_fails() -> None:
    code = "import contextlib\n" + WORK.format(
        end="with contextlib.closing(work):\n    raise SystemExit('refused')"
    )
    text = on_a_terminal(code)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "refused" in plain(text)


def test_elsewhere_there_are_lines_now_and_then_and_the_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = live("train", 30, start=12)
    work.update(13, "loss 0.600")
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    work.update(14, "loss 0.500", left_s=90.4)
    monkeypatch.undo()
    work.update(15, "loss 0.450")
    work.update(30, "loss 0.400", left_s=0.0)
    work.close()
    assert capsys.readouterr().out.splitlines() == [
        "  train 14/30, 90 s left, loss 0.500",
        "  train 30/30, 0 s left, loss 0.400",
    ]


def test_the_time_left_is_that_of_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    work = PlainProgress("train", 30, start=20)
    work.started -= 10
    work.last -= 20
    work.update(25)  # 5 steps in 10 s, 5 to go
    assert capsys.readouterr().out == "  train 25/30, 10 s left\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3900, "1 h 05 min")],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert clock(seconds) == words
