import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_ERROR_REPORTING": "false"})

import tiny


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny_llama"
    tiny.build_model(folder)
    return folder


@pytest.fixture
def private(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A team's private folder: conf, data, artifacts; the environment points at it."""
    tiny.write_conf(tmp_path / "conf")
    (tmp_path / "data").mkdir()
    tiny.write_rows(tmp_path / "data" / "rows.jsonl")
    for name, folder in {
        "CONF_DIR": tmp_path / "conf",
        "DATA_ROOT": tmp_path / "data",
        "MODELS_ROOT": tiny_model_folder.parent,
        "ARTIFACTS_ROOT": tmp_path / "artifacts",
    }.items():
        monkeypatch.setenv(name, str(folder))
    return tmp_path


@pytest.fixture
def argv(private: Path) -> Callable[..., list[str]]:
    """The command line of the experiment `tiny` with further settings."""
    return lambda *more: ["experiment=tiny", f"paths.runs={private / 'runs'}", *more]
