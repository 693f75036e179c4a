"""A tiny export, made once for the tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import exported
import pytest
from house import House


@pytest.fixture(scope="session")
def exporting(tmp_path_factory: pytest.TempPathFactory) -> House:
    return exported.build(tmp_path_factory.mktemp("serving"))


@pytest.fixture
def at_home(exporting: House) -> Iterator[House]:
    """Its house, for stages in this process."""
    with exporting.at_home():
        yield exporting


@pytest.fixture
def breakable(exporting: House, tmp_path: Path) -> Iterator[House]:
    """A copy that a test may damage."""
    shutil.copytree(exporting.folder, tmp_path / "house")
    house = House(tmp_path / "house")
    with house.at_home():
        yield house
