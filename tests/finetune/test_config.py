from pathlib import Path

import pytest

from finetune.config import load, show
from finetune.config.load import CONF, experiments
from finetune.errors import ConfigError

DEMO = "experiment=licences_smollm135m"


def problems(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(argv)
    assert error.value.exit_code == 2
    return error.value.problems


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))])
def test_every_experiment_composes_under_its_own_name(name: str) -> None:
    assert load([f"experiment={name}"]).name == name


def group_files() -> list[str]:
    return [
        f"{path.parent.name}={path.stem}"
        for path in sorted(CONF.glob("*/*.yaml"))
        if path.parent.name not in ("experiment", "licence")
    ]


@pytest.mark.parametrize("choice", group_files())
def test_every_group_file_fits_the_schema(choice: str) -> None:
    assert choice.split("=")[0] in show([DEMO, choice])


@pytest.mark.parametrize(
    "path", [*CONF.glob("model/*.yaml"), *CONF.glob("data/*.yaml")], ids=lambda path: path.stem
)
def test_every_model_and_data_file_states_its_licence(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert any(line.startswith("licence: ") for line in lines)
    if path.parent.name == "model":
        assert any(line.startswith("export_name: ") for line in lines)


def test_a_forgotten_experiment_lists_the_choices() -> None:
    assert "contracts_llama70b, contracts_llama8b, cuad_clauses_smollm135m" in problems()[0]


def test_a_misspelt_experiment_is_answered_with_the_near_one() -> None:
    assert "did you mean licences_smollm135m?" in problems("experiment=licences_smolm135m")[0]


def test_a_typo_names_the_key_and_the_known_ones() -> None:
    (line,) = problems(DEMO, "train.learning_rate=1")
    assert line.startswith("train.learning_rate is not a known key")
    assert "lr" in line


def test_unknown_keys_behind_plus_are_found_all_at_once() -> None:
    lines = problems(DEMO, "+train.learning_rate=1", "+train.lora.rnk=2", "+foo=3")
    assert len(lines) == 3
    assert "train.lora.rnk is not a known key; did you mean train.lora.rank?" in lines


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.lr=fast", "Value 'fast' of type 'str' could not be converted to Float"),
        ("model.quantisation=nf8", "expected one of [nf4, none]"),
        ("model=gpt5", "Could not find 'model/gpt5'"),
        ("train.lora=3", "train.lora"),
        ("paths.data_root=${oc.env:HALLMARK_NOT_SET}", "HALLMARK_NOT_SET"),
        ("train=((", "mismatched input"),
        ("train.seed=-1", "train.seed=-1 must be a whole number from 0"),
        ("train.epochs=inf", "train.epochs=inf must be above 0 and finite"),
        ("train.lora.targets=[]", "train.lora.targets is empty"),
        ("data.labels=[]", "data.labels is empty"),
        ("data.limits.file_mib=1000001", "data.limits.file_mib=1000001 must be at most 1000000"),
        ("data.limits.seconds=1000001", "data.limits.seconds=1000001 must be at most 1000000"),
        ("data.limits.memory_mib=1000001", "data.limits.memory_mib=1000001 must be at most 1000000"),
        ("data.limits.pages=1000001", "data.limits.pages=1000001 must be at most 1000000"),
        ("data.limits.characters=2147483648", "data.limits.characters=2147483648 must be at most 2147483647"),
        ("name=other", "name: licences_smollm135m"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_wrong(override: str, told: str) -> None:
    lines = problems(DEMO, override)
    assert len(lines) == 1
    assert told in lines[0]
    assert "\n" not in lines[0]


def test_impossible_combinations_are_reported_together_with_a_way_out() -> None:
    lines = problems(
        DEMO,
        "train.micro_batch=3",
        "train.lr=-1",
        "train.optimizer=paged_adamw_8bit",
        "eval.primary=nothing",
        "data.source.path=x",
        "data.split.test_fraction=0.99",
    )
    text = "\n".join(lines)
    assert len(lines) == 6
    assert "use train.global_batch=15" in text
    assert "train.lr=-1.0 must be above 0 and finite" in text
    assert "data.source.path is set, but data.source.kind=licence_notices does not use it" in text


TABLE = "experiment=tiny"
QUERY = ("data.source.path=null", "data.source.url_from_env=X")


@pytest.mark.parametrize(
    "query",
    [
        "select text, target from t",
        "select text, target from (select * from t order by id) s",
        "select text, row_number() over (partition by max(a, b) order by id) as target from t",
        "select text, 'order by id' as target from t -- order by id",
    ],
)
def test_a_query_whose_rows_come_in_any_order_is_refused(private: Path, query: str) -> None:
    (line,) = problems(TABLE, *QUERY, f'data.source.query="{query}"')
    assert line.startswith("data.source.query has no ORDER BY outside brackets")
    load([TABLE, *QUERY, f'data.source.query="{query}\nORDER  BY lower(text)"'])


@pytest.mark.parametrize(
    "url",
    [
        "s3://secret@bucket/x.csv",
        "s3://key:secret/secret@bucket/x.csv",
        "abfs://user:secret@account/x.csv",
        "file:///x.csv?token=secret",
        "simplecache::s3://key:secret@bucket/x.csv",
    ],
)
@pytest.mark.parametrize("name", ["path", "annotations"])
def test_a_url_with_a_secret_is_refused_without_its_text(private: Path, name: str, url: str) -> None:
    lines = problems(TABLE, f"data.source.{name}='{url}'")
    assert lines[-1].startswith(f"data.source.{name} is a URL with a user, password or query string")
    assert "secret" not in "".join(lines)


def test_a_url_that_is_none_is_refused_and_good_ones_pass(private: Path) -> None:
    assert problems(TABLE, "data.source.path='s3://[bad/x'") == [
        "data.source.path is no valid URL; write one such as s3://bucket/folder"
    ]
    for path in ("s3://bucket/team@x/a.csv", "abfss://box@account.dfs.core.windows.net/x.csv", "why?.csv"):
        assert load([TABLE, f"data.source.path='{path}'"]).data.source.path == path


def test_a_question_beside_a_quote_is_refused(private: Path) -> None:
    fields = {"annotations": "m.csv", "file_field": "f", "quote_field": "q", "text_field": "null"}
    settings = [f"data.source.{name}={value}" for name, value in fields.items()]
    settings += ["data.source.kind=documents", "data.form=extract", "data.prompt='{text} {question}'"]
    load([TABLE, *settings])
    assert problems(TABLE, *settings, "data.only_labels=[x]") == [
        "data.only_labels leaves out rows, and data.form=extract asks for every label; set data.labels instead"
    ]
    assert problems(TABLE, *settings, "data.source.question_field=x") == [
        "data.source.question_field has no use beside data.source.quote_field: what is asked is the label; "
        "remove one of them"
    ]


def test_show_leaves_environment_variables_unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", "/secret/place")
    assert "/secret/place" not in show([DEMO])
    assert "${oc.env:DATA_ROOT" in show([DEMO])


def test_conf_dir_adds_private_experiments(private: Path) -> None:
    run = load(["experiment=tiny"])
    assert (run.model.name, run.data.labels) == ("tiny_llama", ["notice", "payment"])
    assert "tiny" in experiments()


def test_a_name_in_both_places_is_refused(private: Path) -> None:
    (private / "conf/model/llama31_8b.yaml").write_text("name: mine\n")
    assert problems("experiment=tiny") == [
        "model/llama31_8b.yaml stands both in conf/ and in CONF_DIR; rename the one in CONF_DIR"
    ]
