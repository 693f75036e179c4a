"""What licences want to travel along: texts, the exact words of notices, what must be shown."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.artifacts import Output
from finetune.config.folders import CONF
from finetune.errors import DataError
from finetune.licence_texts import Legal, legal_of, write_licences
from finetune.licences import read_licence

LLAMA = "LicenseRef-Llama-3.1-Community"
CHANGE = "Llama-mine was made from meta-llama/x, changed."


def base(tmp_path: Path, **texts: str) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name, text in texts.items():
        (folder / name.replace("_md", ".md")).write_text(text)
    return folder


def legal(*ids: str, teacher: str = "") -> Legal:
    section = {"licence": "CC-BY-4.0", "attribution": "The people of X", "teacher_licence": teacher or None}
    data = SimpleNamespace(name="notices", config={"data": section})
    return legal_of([read_licence(licence) for licence in ids], "meta-llama/x", data, {})


def written(tmp_path: Path, found: Legal, folder: Path) -> Path:
    output = Output(tmp_path / "export")
    output.folder.mkdir()
    write_licences(found, folder, CHANGE, output)
    return output.folder


def test_a_llama_ships_its_agreement_its_policy_and_its_exact_notice(tmp_path: Path) -> None:
    folder = base(tmp_path, LICENSE="the agreement", USE_POLICY_md="the policy", NOTICE="kept words")
    made = written(tmp_path, legal(LLAMA, "CC-BY-4.0"), folder)
    assert (made / "LICENSE").read_text() == "the agreement"
    assert (made / "USE_POLICY.md").read_text() == "the policy"
    assert (made / "licences/CC-BY-4.0.txt").read_bytes() == (CONF / "licence/CC-BY-4.0.txt").read_bytes()
    notice = (made / "NOTICE").read_text()
    assert notice.startswith(CHANGE)
    # meta-llama/llama-models models/llama3_1/LICENSE 1.b.iii
    assert (
        "\nLlama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights "
        "Reserved.\n"
    ) in notice
    assert 'Show "Built with Llama" prominently' in notice
    assert "is bound by USE_POLICY.md" in notice
    assert "Trained on notices: The people of X, changed to rows" in notice
    assert notice.rstrip().endswith("kept words")


def test_a_text_that_the_licence_wants_along_must_be_there(tmp_path: Path) -> None:
    folder = base(tmp_path, LICENSE="the agreement")
    with pytest.raises(
        DataError, match=r"lacks USE_POLICY\.md, which Llama 3\.1 Community License \(1\.b\.i"
    ):
        written(tmp_path, legal(LLAMA), folder)


def test_a_teacher_that_binds_by_outputs_shows_its_display_and_data_that_do_not_bind_do_not(
    tmp_path: Path,
) -> None:
    folder = base(tmp_path, LICENSE="Apache")
    found = legal("Apache-2.0", "CC-BY-4.0", LLAMA, teacher=LLAMA)
    assert found.displays == ["Built with Llama"]
    notice = (written(tmp_path, found, folder) / "NOTICE").read_text()
    assert f"Licence: CC-BY-4.0, written by a model under {LLAMA}." in notice
    assert "Built with Llama" in notice
    assert f"({LLAMA}): https://github.com/meta-llama" in notice  # no text of it here: where to read it
    assert legal("Apache-2.0", "CC-BY-4.0").displays == []
