"""The checkpoint store: whole or not there, the newest that is whole, only of this run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.artifacts import provenance
from finetune.checkpoint import Checkpoint, Checkpoints, sealed
from finetune.errors import ConfigError, DataError
from finetune.mirror import Mirror


def store(folder: Path, run: str = "1a2b3c4d", keep: int = 2, mirror: Path | None = None) -> Checkpoints:
    return Checkpoints(folder, run, keep, Mirror(f"file://{mirror}") if mirror else None)


def save(checkpoints: Checkpoints, step: int, best: int | None = None) -> Checkpoint:
    files = {
        "weights": lambda stream: stream.write(b"w%d" % step),
        "states": lambda stream: stream.write(b"s"),
    }
    return checkpoints.save(step, files, {"best_step": best, "micro_batch": 4})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_found_and_the_oldest_goes(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    assert checkpoints.newest() is None
    for step in (2, 4, 6):
        save(checkpoints, step)
    assert names(tmp_path) == ["step-00000004", "step-00000006"]
    found = store(tmp_path).newest()
    assert found is not None
    assert (found.step, found.facts["micro_batch"], (found.folder / "weights").read_bytes()) == (6, 4, b"w6")


def test_best_weights_stay_while_a_kept_checkpoint_names_them(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    checkpoints.save_best(2, {"weights": lambda stream: stream.write(b"best")})
    for step in (2, 4):
        save(checkpoints, step, best=2)
    checkpoints.save_best(6, {"weights": lambda stream: stream.write(b"better")})
    save(checkpoints, 6, best=6)
    assert names(tmp_path) == ["best-00000002", "best-00000006", "step-00000004", "step-00000006"]
    save(checkpoints, 8, best=6)
    assert names(tmp_path) == ["best-00000006", "step-00000006", "step-00000008"]
    assert (checkpoints.best(6).folder / "weights").read_bytes() == b"better"


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed file": (
        lambda folder: (folder / "weights").write_bytes(b"w?"),
        "weights is not as it was written",
    ),
    "a lost file": (lambda folder: (folder / "states").unlink(), "states is missing"),
    "no record": (lambda folder: (folder / "checkpoint.json").unlink(), "no checkpoint.json"),
    "half a record": (
        lambda folder: (folder / "checkpoint.json").write_text('{"step": 4'),
        "not one of schema 1",
    ),
    "a record of something else": (
        lambda folder: (folder / "checkpoint.json").write_text("[]"),
        "not one of schema 1",
    ),
    "a file elsewhere": (
        lambda folder: (folder / "checkpoint.json").write_text(
            (folder / "checkpoint.json").read_text().replace('"weights"', '"../../weights"')
        ),
        "not one of schema 1",
    ),
    "a step that flipped": (
        lambda folder: (folder / "checkpoint.json").write_text(
            re.sub(r'"step": \d+', '"step": 1', (folder / "checkpoint.json").read_text())
        ),
        "checkpoint.json is not as it was written",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_newest_gives_way_to_the_one_before(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, said = DAMAGE[what]
    checkpoints = store(tmp_path)
    save(checkpoints, 2)
    damage(save(checkpoints, 4).folder)
    found = store(tmp_path).newest()
    assert found is not None
    assert found.step == 2
    [line] = capsys.readouterr().out.splitlines()
    assert said in line
    assert line.endswith("trying the one before")
    damage(found.folder)
    assert store(tmp_path).newest() is None
    assert capsys.readouterr().out.endswith(f"{tmp_path} holds no whole checkpoint; the run starts again\n")
    save(store(tmp_path), 4)  # the run gets there again
    assert names(tmp_path) == ["step-00000002", "step-00000004"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-00000004").mkdir()
    (tmp_path / ".partial-step-00000004/weights").write_bytes(b"half")
    (tmp_path / ".doomed-step-00000002").mkdir()
    assert store(tmp_path).newest() is None
    assert names(tmp_path) == []


def test_a_failed_write_leaves_the_checkpoints_as_they_were(tmp_path: Path) -> None:
    def full_disk(stream: object) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = store(tmp_path)
    save(checkpoints, 2)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(4, {"weights": full_disk}, {})
    assert names(tmp_path) == ["step-00000002"]


def test_another_run_and_other_libraries_are_refused(tmp_path: Path) -> None:
    save(store(tmp_path), 2)
    with pytest.raises(
        ConfigError, match="is of run 1a2b3c4d, with other settings, base or data than ffff0000"
    ):
        store(tmp_path, run="ffff0000").newest()
    record = tmp_path / "step-00000002/checkpoint.json"
    written = json.loads(record.read_text())
    record.write_text(json.dumps(sealed(written | {"versions": written["versions"] | {"torch": "2.12.0"}})))
    today = provenance.versions()["torch"]
    with pytest.raises(
        ConfigError, match=f"was written with torch 2.12.0, now {re.escape(today)}: a resumed run would"
    ):
        store(tmp_path).newest()
    assert names(tmp_path) == ["step-00000002"]


def test_the_best_weights_are_checked_too(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    checkpoints.save_best(2, {"weights": lambda stream: stream.write(b"best")})
    (tmp_path / "best-00000002/weights").write_bytes(b"worse")
    with pytest.raises(DataError, match="weights is not as it was written"):
        checkpoints.best(2)


def test_a_new_machine_goes_on_from_the_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = tmp_path / "mirror"
    first = store(tmp_path / "first", mirror=mirror)
    save(first, 2)
    first.save_best(4, {"weights": lambda stream: stream.write(b"best")})
    for step in (4, 6):
        save(first, step, best=4)
    assert names(mirror) == names(tmp_path / "first") == ["best-00000004", "step-00000004", "step-00000006"]
    second = store(tmp_path / "second", mirror=mirror)
    found = second.newest()
    assert found is not None
    assert (found.step, (found.folder / "weights").read_bytes()) == (6, b"w6")
    assert (second.best(4).folder / "weights").read_bytes() == b"best"
    assert "fetching step-00000006" in capsys.readouterr().out
    save(first, 8, best=4)
    (mirror / "step-00000008/checkpoint.json").unlink()  # the copy was interrupted
    third = store(tmp_path / "third", mirror=mirror).newest()
    assert third is not None
    assert third.step == 6
    assert first.newest() is not None  # the own one is further: nothing is fetched
    assert names(tmp_path / "first") == ["best-00000004", "step-00000006", "step-00000008"]


def test_a_mirror_that_fails_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    checkpoints = store(tmp_path / "own", mirror=mirror)
    mirror.write_text("a file stands where the folder was")
    assert save(checkpoints, 2).step == 2
    out = capsys.readouterr().out
    assert "train.mirror is tried again with the next one" in out
    mirror.unlink()
    save(checkpoints, 4)
    assert names(mirror) == ["step-00000002", "step-00000004"]


def test_a_mirror_whose_record_names_a_file_outside_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    own = store(tmp_path / "own", mirror=mirror)
    save(own, 2)
    save(own, 4)
    record = mirror / "step-00000004/checkpoint.json"
    record.write_text(record.read_text().replace('"weights"', '"../../../stolen"'))
    found = store(tmp_path / "other", mirror=mirror).newest()
    assert found is not None
    assert found.step == 2
    assert "the mirror's step-00000004 is damaged" in capsys.readouterr().out
    assert names(tmp_path / "other") == ["step-00000002"]


def test_a_damaged_copy_here_is_fetched_anew(tmp_path: Path) -> None:
    own = store(tmp_path / "own", mirror=tmp_path / "mirror")
    save(own, 2)
    (save(own, 4).folder / "weights").write_bytes(b"w?")
    found = own.newest()
    assert found is not None
    assert (found.step, (found.folder / "weights").read_bytes()) == (4, b"w4")


def test_a_mirror_that_fails_does_not_keep_a_run_from_its_own_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror"
    own = store(tmp_path / "own", mirror=mirror)
    save(own, 2)
    (mirror / "step-00000004/checkpoint.json").mkdir(parents=True)  # what no store can read as a file
    found = own.newest()
    assert found is not None
    assert found.step == 2
    assert "going on from the checkpoint on this disk" in capsys.readouterr().out


def test_a_damaged_checkpoint_takes_no_place_of_a_good_one(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep=1)
    save(checkpoints, 2)
    (save(checkpoints, 4).folder / "weights").unlink()
    save(checkpoints, 3)
    assert names(tmp_path) == ["step-00000003"]


def test_a_checkpoint_that_was_to_be_replaced_comes_back(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    made = save(checkpoints, 2)
    made.folder.rename(tmp_path / ".doomed-step-00000002")  # killed between the two renames
    (tmp_path / ".partial-step-00000002").mkdir()
    found = store(tmp_path).newest()
    assert found is not None
    assert found.step == 2
    assert names(tmp_path) == ["step-00000002"]
