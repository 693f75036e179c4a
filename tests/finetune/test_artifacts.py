import contextlib
import json
from pathlib import Path

import pytest

from finetune import artifacts
from finetune.artifacts import Artifact, Spec
from finetune.artifacts.key import private_key
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError, MachineError

SOURCE = {"source": {"stage": "source", "name": "s", "run": "", "content": "c0"}}


@pytest.fixture
def paths(tmp_path: Path) -> PathsConfig:
    return PathsConfig(data_root=".", models_root=".", artifacts_root=str(tmp_path / "artifacts"))


def spec(seed: int = 0) -> Spec:
    return Spec("data", 1, "letters", {"data": {"seed": seed}}, SOURCE)


def make(paths: PathsConfig, seed: int = 0, text: str = "abc") -> Artifact:
    with artifacts.writing(paths, spec(seed), move_current=True) as output:
        if output.finished is None:
            output.write_text("train.jsonl", text)
    assert output.finished is not None
    return output.finished


def test_the_run_id_follows_settings_and_inputs_and_nothing_else(paths: PathsConfig) -> None:
    assert spec(0).run() == spec(0).run()
    other_input = Spec(
        "data", 1, "letters", {"data": {"seed": 0}}, {"source": {**SOURCE["source"], "content": "c1"}}
    )
    moved = Spec(
        "data", 1, "letters", {"data": {"seed": 0}}, {"source": {**SOURCE["source"], "name": "elsewhere"}}
    )
    assert len({spec(0).run(), spec(1).run(), other_input.run()}) == 3
    assert moved.run() == spec(0).run()
    assert len(spec().run()) == 8


def test_a_finished_run_is_found_again_and_not_rewritten(paths: PathsConfig) -> None:
    first = make(paths, text="first")
    assert make(paths, text="second").path("train.jsonl").read_text() == "first"
    assert (
        artifacts.open_current(paths, "data", "letters", {"data": {"seed": 0}}, None).manifest
        == first.manifest
    )


def test_the_manifest_holds_the_digest_of_every_file(paths: PathsConfig) -> None:
    (file,) = make(paths).manifest.files
    # sha256 of b"abc", FIPS 180-2 appendix B.1
    assert file["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (file["path"], file["bytes"]) == ("train.jsonl", 3)


def test_a_folder_without_manifest_is_unfinished_and_made_anew(paths: PathsConfig) -> None:
    made = make(paths)
    (made.folder / "manifest.json").unlink()
    (made.folder / "left_behind").write_text("half")
    with pytest.raises(ConfigError, match="is unfinished"):
        artifacts.open_current(paths, "data", "letters", {"data": {"seed": 0}}, None)
    again = make(paths)
    assert again.manifest.content == made.manifest.content
    assert not (again.folder / "left_behind").exists()


def test_a_stage_that_fails_leaves_no_manifest_and_current_where_it_was(paths: PathsConfig) -> None:
    first = make(paths, seed=0)
    with (
        contextlib.suppress(ZeroDivisionError),
        artifacts.writing(paths, spec(1), move_current=True) as output,
    ):
        output.write_text("train.jsonl", "half")
        raise ZeroDivisionError
    assert (output.folder / "train.jsonl").exists()
    assert not (output.folder / "manifest.json").exists()
    assert (first.folder.parent / "current").read_text().strip() == first.folder.name


def test_other_settings_are_refused_key_by_key(paths: PathsConfig) -> None:
    make(paths, seed=0)
    with pytest.raises(ConfigError, match=r"data.seed=1 today, but 0 in .*letters") as error:
        artifacts.open_current(paths, "data", "letters", {"data": {"seed": 1}}, None)
    assert "make prepare" in error.value.problems[0]


def test_a_named_run_opens_whatever_today_says(paths: PathsConfig) -> None:
    first, _ = make(paths, seed=0), make(paths, seed=1)
    found = artifacts.open_current(paths, "data", "letters", {"data": {"seed": 7}}, first.folder.name)
    assert found.folder == first.folder


@pytest.mark.parametrize("damage", ["flip", "grow", "remove"])
def test_a_damaged_file_is_named(paths: PathsConfig, damage: str) -> None:
    path = make(paths).path("train.jsonl")
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("abd" if damage == "flip" else "abcd")
    with pytest.raises(DataError, match=r"train\.jsonl"):
        make(paths)


def test_a_damaged_manifest_is_named(paths: PathsConfig) -> None:
    (make(paths).folder / "manifest.json").write_text('{"schema": 1')
    with pytest.raises(DataError, match="is damaged"):
        make(paths)


def test_a_folder_in_use_is_refused(paths: PathsConfig) -> None:
    with artifacts.writing(paths, spec(), move_current=True) as output:
        output.write_text("train.jsonl", "abc")
        with pytest.raises(MachineError, match="in use"), artifacts.writing(paths, spec(), move_current=True):
            pass


def test_an_input_that_changed_since_is_refused(paths: PathsConfig) -> None:
    data = make(paths)
    with artifacts.writing(
        paths, Spec("adapter", 1, "x", {}, {"data": artifacts.input_record(data)}), move_current=True
    ) as output:
        output.write_text("adapter", "w")
    assert output.finished is not None
    artifacts.require_input(output.finished, "data", data)
    with pytest.raises(ConfigError, match="was made from data letters/"):
        artifacts.require_input(output.finished, "data", make(paths, seed=1, text="other"))


def test_private_files_are_the_users_alone(paths: PathsConfig) -> None:
    made = make(paths)
    assert all(
        path.stat().st_mode & 0o077 == 0
        for path in (made.folder, *made.folder.iterdir())
        if path.name != ".lock"
    )


def test_manifests_are_plain_json_with_a_schema(paths: PathsConfig) -> None:
    found = json.loads((make(paths).folder / "manifest.json").read_text())
    assert found["schema"] == 1
    assert set(found) >= {
        "stage",
        "name",
        "run",
        "config",
        "inputs",
        "files",
        "content",
        "counts",
        "overrides",
    }


def test_the_key_is_made_once_and_a_broken_one_is_refused(paths: PathsConfig) -> None:
    key = private_key(paths)
    assert (len(key), private_key(paths)) == (32, key)
    (Path(paths.artifacts_root) / ".key").write_bytes(b"")
    with pytest.raises(DataError, match="has 0 bytes, not 32"):
        private_key(paths)


def test_a_run_named_by_hand_leaves_current_where_it_was(paths: PathsConfig) -> None:
    first = make(paths, seed=0)
    with artifacts.writing(paths, spec(1), move_current=False) as output:
        output.write_text("train.jsonl", "abc")
    assert artifacts.open_last(paths, "data", "letters").folder == first.folder


def test_what_does_not_fit_on_the_disk_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    artifacts.require_room(tmp_path, 1, "a run")
    words = r"a run needs 1125899.9 GB and \d+\.\d [GM]B are free; free some space, keep less, or set ARTIFACTS_ROOT"
    with pytest.raises(MachineError, match=words):
        artifacts.require_room(tmp_path, 2**50, "a run", "keep less")
