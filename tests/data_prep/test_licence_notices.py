"""The real notices, through the command that `make prepare` runs."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from finetune.rows import read_rows
from finetune.stage import stage

pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(
        find_spec("licensedcode") is None, reason="licensedcode-data is not installed; run make setup"
    ),
]


def test_the_real_notices_split_without_a_leak_where_a_random_split_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARTIFACTS_ROOT", str(tmp_path))
    monkeypatch.delenv("CONF_DIR", raising=False)
    argv = ["experiment=licences_smollm135m", "data.min_label_rows=5", "data.max_rows=null", "data.seed=0"]
    assert stage("prepare", prepare, argv) == 0
    folder = next(path for path in (tmp_path / "data" / "licence_notices").iterdir() if path.is_dir())
    report = json.loads((folder / "report.json").read_text())
    assert report["read"] == report["rows"] + sum(report["dropped"].values()) == 34_859
    assert report["rows"] == 5_786
    assert report["labels"]["in_test_not_in_train"] == 0
    assert max(report["cross_split_max_jaccard"].values()) < 0.6
    assert report["random_split"]["test_rows_leaked"] > 300
    text = read_rows(folder / "test.jsonl")[0]["messages"][-1]["content"]
    assert "{{" not in text
    assert ".RULE" not in text
    assert "this one 0" in capsys.readouterr().out
