"""The whole walk on a 2-layer Llama, once for all tests of this folder, through the Makefile."""

from collections.abc import Callable
from pathlib import Path

import pytest
from team import Team, new_team

PRIVATE = "private-attribution-2718"
KEY = "feedface" * 5


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Team, str]:
    """A team that ran `make all`, and what the command printed."""
    team = new_team(tmp_path_factory.mktemp("team"))
    with (team.folder / "conf/data/tiny_rows.yaml").open("a") as stream:
        stream.write(f"attribution: {PRIVATE}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        done = team.make("all", "CONF=tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return team, done.stdout


@pytest.fixture
def breakable(walked: tuple[Team, str], tmp_path: Path) -> Team:
    """A copy of the walked team that a test may damage."""
    return walked[0].copy(tmp_path / "team")


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Team]:
    """A team that ran nothing yet."""
    return lambda: new_team(tmp_path)
