import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from finetune import artifacts, export, train
from finetune.artifacts import Artifact, Spec, input_record
from finetune.config import load
from finetune.config.load import CONF
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError, HallmarkError, RefusedError
from finetune.licences import Licence, read_licence, require_lawful, strictest, terms
from finetune.stage import stage
from finetune.training_data import require_lawful_mix

DEMO = "experiment=licences_smollm135m"
SMALL = ("export.use.monthly_users=1000",)
IDS = sorted(path.stem for path in CONF.glob("licence/*.yaml"))
RECORD = {
    "id": "LicenseRef-ours",
    "title": "Licence of ours",
    "commercial": False,
    "max_monthly_users": None,
    "notice": None,
    "display": None,
    "name_prefix": None,
    "ships": ["LICENSE"],
    "binds_outputs": False,
    "outputs_train_others": True,
    "clause": "7 research only",
    "source": "a letter",
}


def run(*overrides: str) -> RunConfig:
    """The demo, Apache-2.0 base and CC-BY-4.0 data, with other settings."""
    return load([DEMO, *overrides])


def problems(kind: type[HallmarkError], *overrides: str) -> list[str]:
    with pytest.raises(HallmarkError) as error:
        require_lawful(run(*overrides))
    assert type(error.value) is kind
    return error.value.problems


@pytest.mark.parametrize("licence_id", IDS)
def test_every_record_is_whole_and_documented(licence_id: str) -> None:
    found = read_licence(licence_id)
    cells = [
        f"`{found.id}`",
        "yes" if found.commercial else "**no**",
        str(found.max_monthly_users // 10**6) if found.max_monthly_users else "-",
        found.display or "-",
        found.name_prefix or "-",
        ("yes" if found.binds_outputs else "-") + ("" if found.outputs_train_others else ", train no others"),
    ]
    assert f"| {' | '.join(cells)} |" in (CONF.parent / "docs/licences.md").read_text().splitlines()


@pytest.mark.parametrize(
    "path",
    [*sorted(CONF.glob("model/*.yaml")), *sorted(CONF.glob("data/*.yaml"))],
    ids=lambda path: path.stem,
)
def test_every_model_and_data_set_is_under_a_licence_that_is_recorded(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["licence"] in IDS


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_house_may_ship(path: Path) -> None:
    assert require_lawful(load([f"experiment={path.stem}"]))


def test_the_exact_words_that_llama_prescribes() -> None:
    # meta-llama/llama-models models/llama3_1/LICENSE 1.b.i, 1.b.iii, 2
    llama = read_licence("LicenseRef-Llama-3.1-Community")
    assert llama.notice == (
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved."
    )
    assert (llama.display, llama.name_prefix, llama.max_monthly_users) == (
        "Built with Llama",
        "Llama",
        700_000_000,
    )


def test_what_the_demo_is_made_of_asks_for_nothing() -> None:
    assert [licence.id for licence in require_lawful(run())] == ["Apache-2.0", "CC-BY-4.0"]
    assert [licence.id for licence in require_lawful(run("data.licence=Apache-2.0"))] == ["Apache-2.0"]


def test_terms_are_told_for_people() -> None:
    assert terms(read_licence("LicenseRef-Llama-3.3-Community")) == [
        "Llama 3.3 Community License (LicenseRef-Llama-3.3-Community): commercial use yes, up to 700,000,000 monthly "
        "users",
        'shows "Built with Llama" where it is offered',
        "its name begins with Llama",
    ]
    assert terms(read_licence("CC-BY-NC-4.0"))[0].endswith("commercial use no, no limit of users")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=qwen25_3b"], ["export.use.commercial is not set", "Qwen Research License"]),
        (["data.licence=CC-BY-NC-4.0"], ["export.use.commercial is not set", "2.a.1 non-commercial"]),
        (
            ["model=llama31_8b"],
            ["export.use.monthly_users is not set", "Llama 3.1", "2 users", "at most 700000000"],
        ),
        (
            ["model=qwen25_72b", "export.use.commercial=false"],
            ["monthly_users is not set", "at most 100000000"],
        ),
        (["model.origin=[]", "policy.deny=[CN]"], ["model.origin is not set", "policy.deny"]),
    ],
)
def test_a_licence_that_asks_must_be_answered(overrides: list[str], words: list[str]) -> None:
    (line,) = problems(ConfigError, *overrides)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["model=qwen25_3b", "export.use.commercial=true"],
            ["export.use.commercial=true", "LicenseRef-Qwen-Research", "non-commercial", "take another base"],
        ),
        (
            ["data.licence=CC-BY-NC-4.0", "export.use.commercial=true"],
            ["export.use.commercial=true", "CC-BY-NC-4.0", "2.a.1", "other data"],
        ),
        (
            ["model=llama31_8b", "export.use.monthly_users=700000001"],
            ["monthly_users=700000001 is above the 700000000", "LicenseRef-Llama-3.1-Community", "2 users"],
        ),
        (
            ["model=llama31_8b", *SMALL, "model.export_name=Contracts-8B"],
            [
                "model.export_name=Contracts-8B",
                "begin with Llama",
                "1.b.i",
                "model.export_name=Llama-Contracts-8B",
            ],
        ),
        (
            ["data.licence=LicenseRef-Llama-3.1-Community", *SMALL],  # trained on a Llama's answers
            ["model.export_name=SmolLM2-135M-licences", "begin with Llama", "1.b.i"],
        ),
        (
            ["data.licence=LicenseRef-Llama-2-Community", *SMALL],
            ["data.licence=LicenseRef-Llama-2-Community", "1.b.v", "may not train a model under another"],
        ),
        (
            ["model=qwen25_7b", "policy.deny=[CN]"],
            ["policy.deny=CN excludes model.origin=CN", "another base"],
        ),
        (["model=qwen25_7b", "policy.deny=[alibaba]"], ["policy.deny=alibaba excludes model.origin=Alibaba"]),
        (["model=gemma3_1b", "policy.deny=[LicenseRef-*]"], ["excludes model.licence=LicenseRef-Gemma"]),
        (
            ["policy.deny=[CC-BY-4.0]"],
            ["policy.deny=CC-BY-4.0 excludes data.licence=CC-BY-4.0", "another data"],
        ),
    ],
)
def test_what_may_not_ship_is_refused_with_the_way_out(overrides: list[str], words: list[str]) -> None:
    (line,) = problems(RefusedError, *overrides)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=qwen25_3b", "export.use.commercial=false"],
        ["model=llama31_8b", "export.use.monthly_users=700000000"],  # greater than 700 million, says clause 2
        ["model=llama31_8b", "export.use.monthly_users=0"],
        ["model=codellama_34b", "data.licence=LicenseRef-Llama-2-Community", *SMALL],
        ["policy.deny=[CN, LicenseRef-*, CC-BY-NC-*]"],
    ],
)
def test_what_may_ship_passes(overrides: list[str]) -> None:
    assert require_lawful(run(*overrides))


LLAMA_TEACHER = "data.teacher_licence=LicenseRef-Llama-3.1-Community"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([LLAMA_TEACHER, *SMALL], ["model.export_name=SmolLM2-135M-licences", "begin with Llama", "1.b.i"]),
        (
            ["data.teacher_licence=LicenseRef-Llama-2-Community", *SMALL],
            [
                "data.teacher_licence=LicenseRef-Llama-2-Community",
                "1.b.v",
                "may not train a model under another",
            ],
        ),
        (
            ["data.teacher_licence=CC-BY-NC-4.0", "export.use.commercial=true"],
            ["export.use.commercial=true", "CC-BY-NC-4.0", "2.a.1"],
        ),
        (
            ["data.teacher_licence=MIT", "policy.deny=[MIT]"],
            ["policy.deny=MIT excludes data.teacher_licence=MIT", "another data"],
        ),
    ],
)
def test_a_teacher_binds_as_its_licence_says(overrides: list[str], words: list[str]) -> None:
    (line,) = problems(RefusedError, *overrides)
    assert all(word in line for word in words)


def test_base_data_and_teacher_join_to_the_strictest() -> None:
    found = require_lawful(run(LLAMA_TEACHER, *SMALL, "model.export_name=Llama-licences"))
    assert [licence.id for licence in found] == ["Apache-2.0", "CC-BY-4.0", "LicenseRef-Llama-3.1-Community"]
    assert strictest(found) == (
        "commercial use allowed, up to 700,000,000 monthly users of the company and its affiliates"
    )
    both = [*found, read_licence("LicenseRef-Qwen"), read_licence("CC-BY-NC-4.0")]
    assert strictest(both).startswith("commercial use not allowed, up to 100,000,000 monthly users")
    (line,) = problems(ConfigError, LLAMA_TEACHER, "model.export_name=Llama-licences")
    assert "export.use.monthly_users is not set" in line
    (line,) = problems(ConfigError, "data.teacher_licence=LicenseRef-none")
    assert "CONF_DIR/licence/LicenseRef-none.yaml" in line


def test_the_teacher_of_a_mixed_set_binds_too() -> None:
    mix = {"other": {"licence": "MIT", "attribution": "", "content": "c"}}
    assert [licence.id for licence in require_lawful_mix(run(), mix)] == ["MIT"]
    taught = {"other": {**mix["other"], "teacher_licence": "LicenseRef-Llama-3.1-Community"}}
    with pytest.raises(RefusedError, match="must begin with Llama"):
        require_lawful_mix(run(*SMALL), taught)


def test_every_problem_is_said_at_once() -> None:
    overrides = ["model=mistral_large2", "data.licence=LicenseRef-Llama-3.3-Community", "policy.deny=[FR]"]
    declared = [*overrides, "export.use.commercial=true", "export.use.monthly_users=800000000"]
    expected = ["export.use.commercial", "export.use.monthly_users", "model.export_name", "policy.deny"]
    assert [re.split(r"[ =]", line)[0] for line in problems(RefusedError, *declared)] == expected
    assert [re.split(r"[ =]", line)[0] for line in problems(ConfigError, *overrides)] == expected


def test_negative_users_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="export.use.monthly_users=-1 must be 0 or above"):
        run("export.use.monthly_users=-1")


def test_an_unknown_licence_says_which_file_to_add() -> None:
    base, data = problems(ConfigError, "model.licence=Apache-2", "data.licence=LicenseRef-bought")
    assert base.startswith(
        "licence Apache-2 has no record; did you mean Apache-2.0?; add CONF_DIR/licence/Apache-2"
    )
    assert "add CONF_DIR/licence/LicenseRef-bought.yaml" in data
    assert data.endswith(", ".join(IDS))


@pytest.fixture
def team_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A record that a team keeps in CONF_DIR."""
    monkeypatch.setenv("CONF_DIR", str(tmp_path))

    def write(**changes: object) -> Path:
        path = tmp_path / "licence" / "LicenseRef-ours.yaml"
        path.parent.mkdir()
        kept = {key: value for key, value in {**RECORD, **changes}.items() if value != "left out"}
        path.write_text(yaml.safe_dump(kept))
        return path

    return write


def test_a_team_adds_its_own(team_record: Callable[..., Path]) -> None:
    team_record()
    assert read_licence("LicenseRef-ours") == Licence(**RECORD)  # type: ignore[arg-type]
    (line,) = problems(RefusedError, "data.licence=LicenseRef-ours", "export.use.commercial=true")
    assert "Licence of ours (LicenseRef-ours; 7 research only)" in line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"clause": "left out"},
            "clause is missing; give it a value, or null where the licence asks for nothing",
        ),
        ({"commercial": "yes"}, "commercial='yes' must be true or false"),
        ({"max_monthly_users": True}, "max_monthly_users=True must be a whole number above 0, or null"),
        ({"max_monthly_users": 0}, "max_monthly_users=0 must be a whole number above 0, or null"),
        ({"ships": "LICENSE"}, "ships='LICENSE' must be a list of file names"),
        ({"title": ""}, "title='' must be text"),
        ({"comercial": True}, "comercial is not a known key; did you mean commercial?"),
        (
            {"id": "LicenseRef-other"},
            "id=LicenseRef-other differs from the name of its file; give both the same",
        ),
    ],
)
def test_a_broken_record_names_file_and_key(
    team_record: Callable[..., Path], changes: dict[str, object], line: str
) -> None:
    path = team_record(**changes)
    with pytest.raises(ConfigError) as error:
        read_licence("LicenseRef-ours")
    assert error.value.problems == [f"{path}: {line}"]


@pytest.mark.parametrize(("text", "reason"), [("a: [", "is not YAML"), ("just words", "holds no keys")])
def test_a_file_that_is_no_record_is_named(team_record: Callable[..., Path], text: str, reason: str) -> None:
    path = team_record()
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"LicenseRef-ours.yaml {reason}"):
        read_licence("LicenseRef-ours")


@pytest.mark.parametrize("name", ["train", "export"])
def test_a_stage_refuses_before_it_opens_anything(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARTIFACTS_ROOT", str(tmp_path / "artifacts"))
    body = {"train": train.run, "export": export.run}[name]
    assert stage(name, body, [DEMO, "policy.deny=[Hugging*]"]) == 3
    assert "policy.deny=Hugging* excludes model.origin=Hugging Face" in capsys.readouterr().err
    assert stage(name, body, [DEMO, "model=llama31_8b"]) == 2
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["audit"]


def test_export_asks_about_the_data_that_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACTS_ROOT", str(tmp_path / "artifacts"))
    trained = run("data.licence=CC-BY-NC-4.0")

    def made(kind: str, name: str, sections: dict[str, object], **inputs: Artifact) -> Artifact:
        records = {key: input_record(item) for key, item in inputs.items()}
        with artifacts.writing(
            trained.paths, Spec(kind, 1, name, sections, records), move_current=True
        ) as output:
            output.write_text("content.txt", kind)
        return output.made()

    data = made("data", trained.data.name, {"data": trained.data})
    pinned = made("base", trained.model.name, {"base": trained.model.base})
    made("adapter", trained.name, {"model": trained.model, "train": trained.train}, data=data, base=pinned)

    with pytest.raises(RefusedError, match="CC-BY-NC-4.0; 2.a.1"):
        export.run(run("data.licence=CC-BY-4.0", "export.use.commercial=true"))
