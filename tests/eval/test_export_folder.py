"""The folder that leaves the house, made by the stages themselves: merged, adapter alone, NF4; signed and recorded."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from house import at_call

from data_prep.prepare import prepare
from finetune import audit, export, train
from finetune.config import load
from finetune.errors import DataError
from finetune.show_audit import lines
from finetune.stage import stage
from finetune.verify import verify

SETTINGS = (
    "train.max_steps=2",
    "tracking.mode=disabled",
    "export.force=true",
    "export.approver='A. B., risk'",
)


class Folder:
    """A team's folder with a trained adapter that no evaluation lets go, so that every export is forced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def argv(self, *more: str) -> list[str]:
        return ["experiment=tiny", f"paths.runs={self.folder / 'runs'}", *SETTINGS, *more]

    def export(self, *more: str) -> Path:
        assert stage("export", export.run, self.argv(*more)) == 0
        exports = self.folder / "artifacts/exports/tiny"
        return exports / (exports / "current").read_text().strip()

    @property
    def public(self) -> Path:
        (found,) = (self.folder / "artifacts").glob("signing-*.pub")
        return found


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Folder]:
    team = Folder(tmp_path_factory.mktemp("team"))
    tiny.write_conf(team.folder / "conf")
    (team.folder / "data").mkdir()
    tiny.write_rows(team.folder / "data/rows.jsonl")
    shutil.copytree(tiny_model_folder, team.folder / "models/tiny_llama")
    before = dict(os.environ)
    os.environ.update(tiny.environment(team.folder))
    assert stage("prepare", prepare, team.argv()) == 0
    assert stage("train", train.run, team.argv()) == 0
    yield team
    os.environ.clear()
    os.environ.update(before)


def of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_merged_export_verifies_and_any_flipped_bit_is_found(team: Folder) -> None:
    folder = team.export()
    assert verify(folder, team.public).key
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) >= 16
    for path in files:
        whole = path.read_bytes()
        for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(DataError):
                verify(folder, team.public)
        path.write_bytes(whole)
    assert verify(folder, team.public).key
    assert stage("export", export.run, team.argv()) == 0  # finished: verified, not made again


def test_a_finished_export_whose_signature_is_gone_is_not_taken_for_done(
    team: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    signature = team.export() / "model.sig"
    whole = signature.read_bytes()
    signature.unlink()
    capsys.readouterr()
    assert stage("export", export.run, team.argv()) == 4
    assert "model.sig is missing" in capsys.readouterr().err
    signature.write_bytes(whole)


def test_what_a_kill_left_beside_a_finished_export_goes(team: Folder) -> None:
    folder = team.export()
    left = folder / ".doomed-checkpoints/merge/model.safetensors.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")  # killed between the manifest and the end
    with pytest.raises(DataError, match="is not among the signed files"):
        verify(folder, team.public)
    assert team.export() == folder
    assert not left.parent.parent.exists()
    assert verify(folder, team.public).key


def test_the_card_says_who_approved_and_what_was_not_evaluated(team: Folder) -> None:
    card = (team.export() / "README.md").read_text()
    assert "| approved by | A. B., risk |" in card
    assert "| intended use | **not stated** (`export.intended_use`) |" in card
    assert "- every task: no report with a gate is on this adapter" in card
    assert "**Exported against a gate.** export.force" in card
    assert "license_name: test" in card


def test_rights_and_evidence_travel_with_the_weights(team: Folder) -> None:
    folder = team.export()
    notice = (folder / "NOTICE").read_text()
    assert "tiny-merged was made from tiny_llama" in notice
    assert "Licence of a test (LicenseRef-test): in this folder" in notice
    found = of(folder / "evidence.json")["evidence"]
    by_file = {item["file"]: item for item in found}
    assert {"README.md", "manifest.json", "model.sig", "fidelity.json", "ledger.jsonl"} <= by_file.keys()
    functions = {point.split()[1] for item in found for point in item["touches"] if point.startswith("NIST")}
    assert functions == {"GOVERN", "MAP", "MEASURE", "MANAGE"}
    data = team.folder / "artifacts/data" / by_file["card.md"]["artifact"]
    listed = {item["path"]: item["sha256"] for item in of(data / "manifest.json")["files"]}
    assert by_file["card.md"]["sha256"] == listed["card.md"]
    bill = of(folder / "sbom.cdx.json")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert any(item.get("purl", "").startswith("pkg:pypi/torch@2.13") for item in bill["components"])


def test_the_adapter_alone(team: Folder) -> None:
    folder = team.export("export.format=adapter")
    assert verify(folder, team.public).key
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "serve.yaml"} <= names
    assert not {"config.json", "model.safetensors", "fidelity.json"} & names
    settings = yaml.safe_load((folder / "serve.yaml").read_text())
    assert (settings["enable-lora"], settings["lora-modules"]) == (True, "tiny-merged=.")
    assert settings["max-lora-rank"] == 16
    weights = team.folder / "models/tiny_llama/model.safetensors"
    assert of(folder / "base.json")["sha256"]["model.safetensors"] == audit.sha256_file(weights)
    card = (folder / "README.md").read_text()
    assert "base_model_relation: adapter" in card
    assert "**Not evaluated**: the adapter on the base in bf16" in card


def test_nf4_is_a_quarter_and_marked_as_not_evaluated(team: Folder) -> None:
    from finetune.artifacts import Artifact
    from finetune.model import load_base

    merged = team.export()
    folder = team.export("export.format=nf4")
    assert verify(folder, team.public).key
    assert "quantization_config" in of(folder / "config.json")
    assert "quantization_config" not in of(merged / "config.json")
    assert "**Not evaluated**: the weights in this folder" in (folder / "README.md").read_text()
    assert yaml.safe_load((folder / "serve.yaml").read_text())["quantization"] == "bitsandbytes"
    run = load(team.argv())
    ours = load_base(Artifact(folder, None), run.model, run.hardware).model  # type: ignore[arg-type]
    theirs = load_base(Artifact(merged, None), run.model, run.hardware).model  # type: ignore[arg-type]
    first, second = (net.model.layers[0].mlp.up_proj.weight for net in (ours, theirs))
    assert first.data.equal(second.data)  # the very bytes that bitsandbytes makes of the merged weights


def test_the_trail_leads_from_data_to_signature(team: Folder) -> None:
    folder = team.export()
    run = load(team.argv())
    told = list(lines(run))
    stages = [line.split()[2] for line in told[1:-1]]
    for name in ("base", "data", "adapter", "override", "export"):
        assert name in stages
    assert stages.index("data") < stages.index("adapter") < stages.index("export")
    assert told[-1].startswith(f"signed by the key {team.public}")
    head = of(folder / "manifest.json")["facts"]["audit"]
    assert head["entries"] == [entry["run"] for entry in audit.read_trail(run.paths, "tiny")].index(
        folder.name
    )
    path = audit.trail_of(run.paths, "tiny")
    whole, kept = path.read_bytes(), path.with_suffix(".head").read_bytes()
    path.unlink()
    path.with_suffix(".head").unlink()
    with pytest.raises(DataError, match=r"tiny\.jsonl line 1 is missing: the signed export tiny/"):
        audit.require_head(run.paths, "tiny", head, f"the signed export tiny/{folder.name}")
    path.write_bytes(whole)
    path.with_suffix(".head").write_bytes(kept)


def test_killed_at_any_write_of_the_end_the_export_is_unfinished_and_then_made(team: Folder) -> None:
    from finetune.artifacts import atomic

    def stop() -> None:
        raise KeyboardInterrupt

    whole = team.export("export.format=adapter")
    calls = 0
    for number in range(1, 30):
        shutil.rmtree(whole)
        with at_call(atomic, "replace_text", number, stop) as seen:
            code = stage("export", export.run, team.argv("export.format=adapter"))
        calls = len(seen)
        if code == 0:
            break
        if (whole / "manifest.json").is_file():
            assert verify(whole, team.public).key
        else:
            with pytest.raises(DataError):
                verify(whole, team.public)
    assert calls >= 3  # signature, manifest, audit
    assert verify(team.export("export.format=adapter"), team.public).key
