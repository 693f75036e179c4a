"""Several prepared data sets learned from together, and kept apart from what the main one holds out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from finetune import train
from finetune.config import load
from finetune.errors import ConfigError, RefusedError
from finetune.rows import read_rows
from finetune.training_data import open_data, overlaps

SOURCE = "0" * 64
BOTH = ("+train.mix.tiny_rows=1", "+train.mix.letters=1")


def row(text: str, number: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Say."}, {"role": "user", "content": text}]
    document = f"d{number}"
    sources = [{"sha256": f"{number:064}", "start": 0, "end": 9}]
    named = {"id": f"r{number}", "group": f"g{number}", "document": document}
    return named | {"messages": messages, "target": "y", "sources": sources, **more}


HELD_OUT = [
    row("What now?", 1),
    row("Where?", 2),
    row("part", 3, sources=[{"sha256": SOURCE, "start": 10, "end": 20}]),
]


@pytest.mark.parametrize(
    ("mixed", "told"),
    [
        (row("Why?", 7), None),
        (
            {**row("", 7), "messages": [{"role": "user", "content": " what  NOW?\n"}]},
            "1 of 1 rows ask what the main",
        ),
        (row("Why?", 7, document="d2"), "1 of 1 rows are of documents that the main"),
        (row("Why?", 7, sources=row("", 2)["sources"]), "1 of 1 rows are of documents that the main"),
        (row("Why?", 7, group="g2"), "1 of 1 rows are of documents that the main"),
    ],
    ids=["other", "same question", "same document", "same file", "same group"],
)
def test_a_row_that_repeats_what_is_held_out_is_found(mixed: Any, told: str | None) -> None:
    found = list(overlaps("more", [mixed], HELD_OUT))
    assert len(found) == (told is not None)
    if told:
        assert found[0].startswith(f"train.mix.more: {told} data set holds out for val or test (r7)")
        assert "Why" not in found[0]


def test_rows_of_one_table_overlap_where_their_ranges_do() -> None:
    def at(start: int, end: int, number: int) -> dict[str, Any]:
        return row(f"text {number}", number, sources=[{"sha256": SOURCE, "start": start, "end": end}])

    # several documents of the mixed set stand in the one file, so the file is a table
    apart = [at(0, 10, 7), at(20, 30, 8)]
    assert not list(overlaps("more", apart, [*HELD_OUT, at(40, 50, 4)]))
    (line,) = overlaps("more", [*apart, at(15, 18, 9)], [*HELD_OUT, at(40, 50, 4)])
    assert line.startswith("train.mix.more: 1 of 3 rows are of documents")
    assert "(r9)" in line
    # one document of a table alone is held out: the table's others are no part of it
    assert not list(overlaps("more", apart, [at(12, 18, 4)]))


def test_many_rows_are_counted_and_a_few_named() -> None:
    (line,) = overlaps("more", [row("What now?", number) for number in range(10, 18)], HELD_OUT)
    assert "8 of 8 rows ask" in line
    assert "(r10, r11, r12, r13, r14 and 3 more)" in line


def another_set(private: Path, name: str, texts: list[str]) -> None:
    """A data set beside `tiny_rows`, with an experiment that prepares it."""
    with (private / "data" / f"{name}.jsonl").open("w") as stream:
        for number, text in enumerate(texts):
            stream.write(
                json.dumps({"text": text, "target": "notice", "contract": f"{name}{number // 2}"}) + "\n"
            )
    data = (private / "conf/data/tiny_rows.yaml").read_text()
    data = data.replace("tiny_rows", name).replace("rows.jsonl", f"{name}.jsonl")
    (private / f"conf/data/{name}.yaml").write_text(data)
    experiment = (private / "conf/experiment/tiny.yaml").read_text()
    experiment = experiment.replace("/data: tiny_rows", f"/data: {name}").replace(
        "name: tiny\n", f"name: {name}\n"
    )
    (private / f"conf/experiment/{name}.yaml").write_text(experiment)


LETTERS = [
    f"Letter {number} {'abcdefgh'[number % 8] * 9} of {number * 31} sets out a new notice."
    for number in range(20)
]


@pytest.fixture
def mixed(private: Path, argv: Callable[..., list[str]]) -> Path:
    """Both sets prepared."""
    another_set(private, "letters", LETTERS)
    prepare(load(argv()))
    prepare(load(["experiment=letters", *argv()[1:]]))
    return private


def test_a_mix_holds_the_training_rows_of_all_its_sets(mixed: Path, argv: Callable[..., list[str]]) -> None:
    run = load(argv("+train.mix.tiny_rows=3", "+train.mix.letters=1"))
    data = open_data(run)
    records = data.records()
    assert sorted(records) == ["data", "mixed_letters"]
    assert records["mixed_letters"]["content"] == data.mixed["letters"].manifest.content
    rows = data.rows()
    for name, artifact in {"tiny_rows": data.main, **data.mixed}.items():
        own = read_rows(artifact.path("train.jsonl"))
        assert [item["id"] for item in rows if item["data"] == name] == [item["id"] for item in own]


def test_the_main_set_takes_part_only_where_it_is_named(mixed: Path, argv: Callable[..., list[str]]) -> None:
    rows = open_data(load(argv("+train.mix.letters=1"))).rows()
    assert {item["data"] for item in rows} == {"letters"}
    assert "data" not in open_data(load(argv())).rows()[0]


def test_a_mixed_set_with_a_row_of_the_test_set_is_refused(
    mixed: Path, argv: Callable[..., list[str]]
) -> None:
    run = load(argv(*BOTH))
    held_out = read_rows(open_data(run).path("test.jsonl"))[0]["messages"][-1]["content"]
    another_set(mixed, "letters", [*LETTERS, held_out])
    for seed in range(9):  # until the row is one of train
        made = prepare(load(["experiment=letters", *argv()[1:], f"data.seed={seed}"]))
        if held_out in made.path("train.jsonl").read_text():
            break
    with pytest.raises(
        RefusedError, match=r"train\.mix\.letters: 1 of \d+ rows ask what the main data set"
    ) as error:
        open_data(run).rows()
    assert error.value.exit_code == 3


def test_a_set_that_was_never_prepared_is_named(private: Path, argv: Callable[..., list[str]]) -> None:
    another_set(private, "letters", LETTERS)
    another_set(private, "notes", LETTERS)
    prepare(load(argv()))
    with pytest.raises(ConfigError) as error:
        open_data(load(argv(*BOTH, "+train.mix.notes=2")))
    assert [line.split(";")[0] for line in error.value.problems] == [
        "train.mix.letters was never prepared",
        "train.mix.notes was never prepared",
    ]


def test_wrong_mixes_are_told_all_at_once(private: Path, argv: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError) as error:
        load(argv("+train.mix.tiny_row=1", "+train.mix.tiny_rows=0", "+train.mix.cuad=-2"))
    told = "\n".join(error.value.problems)
    assert "train.mix.tiny_rows=0.0 must be above 0 and finite; leave tiny_rows out" in told
    assert "train.mix.cuad=-2.0 must be above 0" in told
    assert "train.mix.tiny_row is no data set; did you mean tiny_rows?" in told


def test_the_licence_of_a_mixed_set_binds_too(mixed: Path, argv: Callable[..., list[str]]) -> None:
    path = mixed / "conf/data/letters.yaml"
    path.write_text(path.read_text().replace("LicenseRef-test", "CC-BY-NC-4.0"))
    prepare(load(["experiment=letters", *argv()[1:]]))
    with pytest.raises(RefusedError, match=r"export\.use\.commercial=true is what .* does not allow"):
        open_data(load(argv(*BOTH, "export.use.commercial=true")))


def test_an_adapter_of_a_mix_names_all_it_was_made_from(mixed: Path, argv: Callable[..., list[str]]) -> None:
    settings = ("train.max_steps=2", "tracking.mode=disabled")
    run = load(argv("+train.mix.tiny_rows=3", "+train.mix.letters=1", *settings))
    made = train.run(run)
    manifest = made.manifest
    assert sorted(manifest.inputs) == ["base", "data", "mixed_letters"]
    assert manifest.counts["rows_seen_of_tiny_rows"] == 12  # 2 steps of 8 rows, 3 of 4
    assert manifest.counts["rows_seen_of_letters"] == 4
    assert manifest.facts["mix"]["letters"]["licence"] == "LicenseRef-test"
    report = json.loads(made.path("tokens.json").read_text())
    assert report["data"]["letters"] == {
        "rows": 12,
        "rows_seen": 4,
        "trained_tokens": 4 * 7,
    }  # notice and its end
    assert made.path("tokens.json").stat().st_mode & 0o777 == 0o600
    assert not any(word in made.path("tokens.json").read_text() for word in ("Letter", "Clause", "messages"))
