"""Versions at another place: whole before anything names them, never overwritten, and back with one command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from house import at_call

from finetune import artifacts
from finetune.artifacts import Artifact, Spec
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import ConfigError, DataError
from finetune.publish import Shop, main
from finetune.signing import open_key
from finetune.verify import verify


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="tiny", paths=PathsConfig("", "", str(tmp_path / "artifacts"), str(tmp_path / "runs"))
    )


@pytest.fixture
def sealed(run: RunConfig) -> Callable[[int], tuple[Artifact, Path]]:
    def make(seed: int) -> tuple[Artifact, Path]:
        key = open_key(run)
        with artifacts.writing(
            run.paths, Spec("export", 1, "tiny", {"s": seed}, {}), move_current=True
        ) as output:
            if output.finished is None:
                output.write_text("README.md", f"# {seed}\n")
                output.write_text("licences/x.txt", "free\n")
                output.seal = lambda digests: key.sign(output.folder, digests)
        return output.made(), key.public

    return make


@pytest.fixture(params=["folder", "memory"])
def to(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shop") if request.param == "folder" else f"memory://{tmp_path.name}/shop"


def published(made: Artifact, to: str, *more: str) -> None:
    main(["--export", str(made.folder), "--to", to, *more])


def test_versions_stay_and_current_goes_forth_and_back(
    sealed: Any, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, public), (second, _) = sealed(1), sealed(2)
    published(first, to, "--key", str(public))
    published(second, to, "--key", str(public))
    told = capsys.readouterr().out
    assert f"ROLLBACK=tiny/{first.manifest.run}" in told
    shop = Shop(to, "tiny")
    assert shop.current() == second.manifest.run
    main(["--to", to, "--rollback", f"tiny/{first.manifest.run}", "--key", str(public)])
    assert shop.current() == first.manifest.run
    for made in (first, second):  # what was published is the export: it verifies where it is
        for name in [*verify(made.folder).digests, "model.sig"]:
            target = tmp_path / "fetched" / made.manifest.run / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shop.system.cat_file(f"{shop.root}/tiny/{made.manifest.run}/{name}"))
        assert verify(tmp_path / "fetched" / made.manifest.run, public).key
    published(second, to)
    assert "is there already" in capsys.readouterr().out


def test_a_version_is_never_overwritten(sealed: Any, to: str) -> None:
    made, public = sealed(1)
    published(made, to)
    shop = Shop(to, "tiny")
    place = f"{shop.root}/tiny/{made.manifest.run}"
    for name in ("manifest.json", "model.sig"):
        whole = shop.system.cat_file(f"{place}/{name}")
        shop.system.pipe_file(f"{place}/{name}", whole.replace(b"e", b"f", 1) + b" ")
        with pytest.raises(DataError, match="never overwritten|is damaged"):
            published(made, to, "--key", str(public))
        shop.system.pipe_file(f"{place}/{name}", whole)
    published(made, to)


def test_bytes_that_changed_there_keep_current_where_it_is(sealed: Any, to: str) -> None:
    (first, _), (second, _) = sealed(1), sealed(2)
    published(first, to)
    published(second, to)
    shop = Shop(to, "tiny")
    shop.system.pipe_file(f"{shop.root}/tiny/{first.manifest.run}/README.md", b"forged")
    with pytest.raises(DataError, match=r"README\.md differs from what was published"):
        main(["--to", to, "--rollback", f"tiny/{first.manifest.run}"])
    shop.system.pipe_file(f"{shop.root}/tiny/{second.manifest.run}/more.txt", b"more")
    with pytest.raises(DataError, match=r"more\.txt is not part of it"):
        published(second, to)
    assert shop.current() == second.manifest.run


def test_a_copy_killed_at_any_file_leaves_no_version_and_goes_on(sealed: Any, to: str) -> None:
    (first, _), (second, _) = sealed(1), sealed(2)
    published(first, to)
    shop = Shop(to, "tiny")

    def stop() -> None:
        raise KeyboardInterrupt

    for number in range(1, 5):  # README, licence, signature, manifest
        with at_call(type(shop.system), "put_file", number, stop), pytest.raises(KeyboardInterrupt):
            published(second, to)
        assert shop.current() == first.manifest.run
        assert not shop.system.exists(f"{shop.root}/tiny/{second.manifest.run}/manifest.json")
    with at_call(type(shop.system), "pipe_file", 1, stop), pytest.raises(KeyboardInterrupt):
        published(second, to)
    assert shop.current() == first.manifest.run
    published(second, to)
    assert shop.current() == second.manifest.run


def test_what_does_not_verify_here_is_not_copied(sealed: Any, to: str) -> None:
    made, public = sealed(1)
    (made.folder / "README.md").write_text("forged")
    with pytest.raises(DataError, match=r"README\.md was changed"):
        published(made, to, "--key", str(public))
    assert Shop(to, "tiny").current() is None


def test_the_command_says_what_it_needs(sealed: Any, tmp_path: Path) -> None:
    made, _ = sealed(1)
    with pytest.raises(ConfigError, match="TO= is not given"):
        main(["--export", str(made.folder)])
    with pytest.raises(ConfigError, match="either EXPORT"):
        main(["--to", str(tmp_path)])
    with pytest.raises(ConfigError, match="is no version"):
        main(["--to", str(tmp_path), "--rollback", "../x"])
    with pytest.raises(DataError, match="is not there"):
        main(["--to", str(tmp_path), "--rollback", "tiny/none"])
