"""What a serving team does with an export, through the Makefile: verify it, publish it, ask where it comes from."""

import json
from pathlib import Path

import pytest
from team import Team

pytestmark = pytest.mark.pipeline


def key_of(team: Team) -> Path:
    (found,) = (team.folder / "artifacts").glob("signing-*.pub")
    return found


def test_the_trail_of_the_walk_leads_from_raw_data_to_the_signature(walked: tuple[Team, str]) -> None:
    team, _ = walked
    done = team.make("audit", "CONF=tiny")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.split()[2] for line in told[1:-1] if "made before or for another" not in line] == [
        "data",
        "adapter",
        "report",
        "override",  # eval.accept_inconclusive of the tiny task
        "export",
        "override",
    ]
    assert told[-1].startswith(f"signed by the key {key_of(team)}")


def test_the_export_verifies_and_is_published_by_the_commands_that_are_told(
    walked: tuple[Team, str], tmp_path: Path
) -> None:
    team, said = walked
    export, key = team.current("exports"), key_of(team)
    assert f"make verify EXPORT={export} KEY={key}" in said
    done = team.make("verify", f"EXPORT={export}", f"KEY={key}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "signed by the key" in done.stdout
    shop = tmp_path / "shop"
    done = team.make("publish", f"EXPORT={export}", f"TO={shop}", f"KEY={key}")
    assert done.returncode == 0, done.stderr
    assert (shop / "tiny/current").read_text() == f"{export.name}\n"
    done = team.make("verify", f"EXPORT={shop / 'tiny' / export.name}", f"KEY={key}")
    assert done.returncode == 0, done.stderr
    weights = shop / "tiny" / export.name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    done = team.make("verify", f"EXPORT={weights.parent}", f"KEY={key}")
    assert "model.safetensors was changed" in done.stderr
    assert "Error 4" in done.stderr


def test_the_card_holds_gain_and_loss_of_the_report(walked: tuple[Team, str]) -> None:
    team, _ = walked
    card = (team.current("exports") / "README.md").read_text()
    report = json.loads((team.current("reports") / "report.json").read_text())
    for item in report["comparisons"]:
        assert f"| {item['a']} | {item['task']} | {item['metric']} | {item['delta']:+.3f} |" in card
    for suite in report["forgetting"]["suites"]:
        assert f"| {suite['name']} ({suite['n']} rows) | {suite['metric']} |" in card
    # so few answers have no calibration, and the card does not pass over it
    assert "Calibration: **not evaluated**." in card
    assert "- whether its confidence is right" in card
