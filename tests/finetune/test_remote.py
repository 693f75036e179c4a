"""Remote folders: mirrored below one local folder, only what changed is fetched, nothing leaves it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from finetune.errors import ConfigError, DataError, MachineError
from finetune.remote import is_url, local_folder, shown

URL = "memory://bucket/contracts"


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """A remote store with two files; empty again afterwards."""
    system = MemoryFileSystem()
    system.store.clear()
    system.pipe(
        {"/bucket/contracts/a.txt": b"one", "/bucket/contracts/sub/b.txt": b"two", "/bucket/c.txt": b"no"}
    )
    yield system
    system.store.clear()


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_mirrored_for_its_owner_alone(store: MemoryFileSystem, tmp_path: Path) -> None:
    found = local_folder(URL, tmp_path / "copy")
    assert contents(found) == {"a.txt": "one", "sub/b.txt": "two"}
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "copy", found / "a.txt")] == [0o700, 0o600]


def test_only_what_changed_is_fetched_and_what_is_gone_is_deleted(
    store: MemoryFileSystem, tmp_path: Path
) -> None:
    found = local_folder(URL, tmp_path)
    (found / "a.txt").write_text("kept")  # would be overwritten if fetched again
    store.pipe("/bucket/contracts/c.txt", b"new")
    store.rm("/bucket/contracts/sub/b.txt")
    assert contents(local_folder(URL, tmp_path)) == {"a.txt": "kept", "c.txt": "new"}
    assert not (found / "sub").exists()
    store.pipe("/bucket/contracts/a.txt", b"ONE")
    assert contents(local_folder(URL, tmp_path)) == {"a.txt": "ONE", "c.txt": "new"}


def test_a_single_file_and_a_local_url(store: MemoryFileSystem, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x.txt").write_text("local")
    assert local_folder(f"{URL}/a.txt", tmp_path / "one").read_text() == "one"
    assert contents(local_folder(f"file://{tmp_path}/here", tmp_path / "two")) == {"x.txt": "local"}


def test_two_runs_never_mirror_into_one_folder_at_once(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, refused = MemoryFileSystem.get_file, []

    def meanwhile(system: MemoryFileSystem, path: str, target: str) -> None:
        with pytest.raises(MachineError, match="is in use by another process; wait for it") as error:
            local_folder(URL, tmp_path)
        refused.append(error.value.exit_code)
        fetch(system, path, target)

    monkeypatch.setattr(MemoryFileSystem, "get_file", meanwhile)
    assert contents(local_folder(URL, tmp_path)) == {"a.txt": "one", "sub/b.txt": "two"}
    assert refused == [5, 5]
    assert contents(local_folder(URL, tmp_path)) == {"a.txt": "one", "sub/b.txt": "two"}


@pytest.mark.parametrize(
    "name", ["../secret.txt", "sub/../../../secret.txt", "a//secret.txt", "sub\\secret.txt"]
)
def test_a_name_that_leaves_the_folder_is_refused(store: MemoryFileSystem, tmp_path: Path, name: str) -> None:
    key = f"/bucket/contracts/{name}"
    store.pipe("/bucket/contracts/plain", b"secret")
    store.store[key] = store.store.pop("/bucket/contracts/plain")
    with pytest.raises(
        DataError, match="memory://bucket/contracts holds a file whose name leaves its folder"
    ):
        local_folder(URL, tmp_path / "copy")
    assert not any(path.is_file() for path in tmp_path.rglob("*secret*"))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://nowhere/at/all", DataError, "memory://nowhere/at/all holds no file; put some there"),
        (
            "s3://user:secret@bucket/x?key=secret",
            MachineError,
            "s3://bucket/x needs a package .* `pip install s3fs`",
        ),
        ("gs://bucket", MachineError, "gs://bucket needs .*; run `pip install gcsfs`"),
        ("az://bucket/x", MachineError, "az://bucket/x needs .*; run `pip install adlfs`"),
        ("odd://user:secret@host/x", ConfigError, "odd:// is no protocol that fsspec knows"),
    ],
)
def test_what_cannot_be_opened_is_one_line(
    tmp_path: Path, url: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        local_folder(url, tmp_path)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_store_that_fails_is_one_line_without_its_words(store: MemoryFileSystem, tmp_path: Path) -> None:
    blocked = tmp_path / "here" / "x.txt"
    blocked.parent.mkdir()
    blocked.symlink_to(tmp_path / "secret")  # listed, and not there when it is fetched
    with pytest.raises((DataError, MachineError)) as refused:
        local_folder(f"file://{blocked.parent}", tmp_path / "copy")
    assert "secret" not in str(refused.value)


def test_which_paths_are_urls() -> None:
    assert [is_url(path) for path in ("s3://b/x", "memory://x", "contracts/x", "/data/x", "C:/x")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert os.sep == "/"


def test_what_is_shown_of_a_url_holds_no_secret() -> None:
    assert shown("sftp://me:secret@host/runs?token=secret") == "sftp://host/runs"
    assert shown("/mnt/nas/runs") == "/mnt/nas/runs"
