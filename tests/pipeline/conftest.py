"""The whole walk on a 2-layer Llama, once for all tests of this folder, through the Makefile."""

from collections.abc import Callable
from pathlib import Path

import pytest
from team import Team, new_team


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Team, str]:
    """A team that ran `make all`, and what the command printed."""
    team = new_team(tmp_path_factory.mktemp("team"))
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
