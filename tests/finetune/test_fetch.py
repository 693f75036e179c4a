"""Where a base comes from, what of it is copied, and what is refused before it is."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file, save_file
from team import ROOT

from finetune.base import fetch_base, open_base
from finetune.config import RunConfig, load
from finetune.config.model import BaseConfig, BaseKind
from finetune.errors import ConfigError, DataError, HallmarkError, MachineError
from finetune.fetch import snapshot_arguments
from finetune.fetch_progress import progress_line

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
STORE = "/bucket/tiny"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the object in a JSON file."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.fixture
def folder(private: Path, tiny_model_folder: Path) -> Path:
    """The base in three shards, as published models are."""
    into = private / "given"
    shutil.copytree(tiny_model_folder, into)
    tensors = load_file(into / "model.safetensors")
    (into / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {shard: names[number::3] for number, shard in enumerate(SHARDS)}
    for shard, part in parts.items():
        save_file({name: tensors[name] for name in part}, into / shard, {"format": "pt"})
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    (into / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return into


@pytest.fixture
def store(folder: Path) -> Iterator[MemoryFileSystem]:
    """The same base in a remote store."""
    system = MemoryFileSystem()
    system.store.clear()
    system.pipe({f"{STORE}/{path.name}": path.read_bytes() for path in folder.iterdir()})
    yield system
    system.store.clear()


def given(source: object, *more: str) -> RunConfig:
    """The configuration of `tiny` with FROM=source, and a MODELS_ROOT that holds no base."""
    return load(["experiment=tiny", "paths.models_root=/nowhere", f"model.base.source='{source}'", *more])


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_base_is_pinned_from_any_place_without_a_connection(
    store: MemoryFileSystem, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    places = {"folder": folder, "file": f"file://{folder}", "memory": f"memory:/{STORE}"}
    pinned = fetch_base(given(places[kind], "model.base.revision=v1"))
    assert {item["path"] for item in pinned.manifest.files} >= {*SHARDS, INDEX, "LICENSE", "tokenizer.json"}
    for path in folder.iterdir():
        assert pinned.path(path.name).read_bytes() == path.read_bytes()
    assert pinned.manifest.config["base"]["revision"] == "v1"
    assert sorted(path.name for path in pinned.folder.parent.iterdir()) == sorted(
        ["current", pinned.folder.name]
    )
    later = load(["experiment=tiny", "paths.models_root=/nowhere", "model.base.revision=v1"])
    assert open_base(later).folder == pinned.folder


def test_code_pickles_and_weights_that_are_not_loaded_stay_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = [
        "modeling_x.py",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "consolidated.safetensors",
    ]
    for name in beside:
        (folder / name).write_bytes(b"x")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    pinned = fetch_base(given(folder))
    assert not {item["path"] for item in pinned.manifest.files} & {
        *beside,
        "params.json",
        "original/params.json",
    }
    assert (
        "not copied: consolidated.safetensors, modeling_x.py, pytorch_model.bin (code, and weights that are not "
        "loaded)\n" in capsys.readouterr().out
    )


def test_auto_map_never_reaches_the_pinned_base(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "config.json", lambda found: found.update(auto_map={"AutoConfig": "modeling_x.Config"}))
    pinned = fetch_base(given(folder))
    config = json.loads(pinned.path("config.json").read_text())
    assert "auto_map" not in config
    assert config["model_type"] == "llama"
    assert (
        "config.json: auto_map, which names code of the model's own, is left out" in capsys.readouterr().out
    )
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    content = pinned.manifest.inputs["source"]["content"]
    assert content != pinned.manifest.content
    assert fetch_base(given(folder, f"model.base.sha256={content}")).folder == pinned.folder


def test_a_base_that_was_pinned_elsewhere_is_the_same_base_here(folder: Path, private: Path) -> None:
    there = fetch_base(given(folder))
    here = fetch_base(given(there.folder, f"paths.artifacts_root={private / 'here'}"))
    assert here.manifest.content == there.manifest.content
    assert here.folder != there.folder


def test_a_copy_that_differs_from_its_source_is_not_pinned(
    folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(shutil, "copyfile", damaged)
    with pytest.raises(DataError, match="did it change while it was copied"):
        fetch_base(given(folder))
    assert not list((private / "artifacts").rglob("manifest.json"))


def cut(folder: Path) -> None:
    os.truncate(folder / SHARDS[1], 1000)


def index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / INDEX, lambda found: change(found["weight_map"]))


def token(text: str, special: bool) -> Callable[[Path], None]:
    """A token that has the first id without a row in the embedding."""
    added = {
        "id": 261,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
    return lambda folder: edit(folder / "tokenizer.json", lambda found: found["added_tokens"].append(added))


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda found: found.update(changes))


BROKEN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "shard missing": (
        lambda folder: (folder / SHARDS[2]).unlink(),
        [f"{INDEX} names 3 files and 1 of them are not there ({SHARDS[2]})"],
    ),
    "shard cut short": (cut, [f"{SHARDS[1]} is damaged or cut short"]),
    "index names a tensor that no shard has": (
        index(lambda tensors: tensors.update({"model.norm.extra": SHARDS[0]})),
        [f"{SHARDS[0]} lacks tensors that {INDEX} names for it: 1 (model.norm.extra)"],
    ),
    "index and shards disagree": (
        index(lambda tensors: tensors.update({"lm_head.weight": SHARDS[2]})),
        [
            f"{SHARDS[0]} holds tensors that {INDEX} does not name for it: 1 (lm_head.weight)",
            f"{SHARDS[2]} lacks tensors that {INDEX} names for it: 1 (lm_head.weight)",
        ],
    ),
    "index leads out of the folder": (
        index(lambda tensors: tensors.update({"lm_head.weight": "../secret.safetensors"})),
        ["1 of them are not there (../secret.safetensors)"],
    ),
    "index is no index": (lambda folder: (folder / INDEX).write_text("{}"), ["has no weight_map"]),
    "index missing": (
        lambda folder: (folder / INDEX).unlink(),
        [f"holds neither {INDEX} nor model.safetensors"],
    ),
    "two sets of weights": (
        lambda folder: shutil.copyfile(folder / SHARDS[0], folder / "model.safetensors"),
        [f"holds model.safetensors beside the shards of {INDEX}"],
    ),
    "config missing": (lambda folder: (folder / "config.json").unlink(), ["holds no config.json"]),
    "config no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        ["config.json is no JSON object"],
    ),
    "config a list": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        ["config.json is no JSON object"],
    ),
    "two things missing": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "LICENSE")],
        ["holds no tokenizer.json", "holds no LICENSE text; put the base's own into"],
    ),
    "tokenizer broken": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        ["tokenizer.json is no tokenizer that can be read"],
    ),
    "pickles alone": (
        lambda folder: [(folder / name).rename(folder / f"{name}.bin") for name in [*SHARDS, INDEX]],
        ["holds no *.safetensors; other weight formats may run code and are refused"],
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        ["holds an adapter (adapter_config.json), not a base"],
    ),
    "quantised already": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        ["its weights are quantised already"],
    ),
    "needs its own code": (
        config(model_type="telechat", auto_map={"AutoConfig": "x.Y"}),
        ["model_type=telechat needs code from its own folder (auto_map), which is never run"],
    ),
    "a token without a row": (
        token("<new>", special=False),
        ["tokenizer.json has 1 tokens (<new>) beyond the 261 rows of the model (vocab_size)"],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_base_is_named_and_not_pinned(folder: Path, private: Path, what: str) -> None:
    break_it, told = BROKEN[what]
    break_it(folder)
    with pytest.raises(DataError) as refused:
        fetch_base(given(folder))
    assert len(refused.value.problems) == len(told)
    for line, text in zip(refused.value.problems, told, strict=True):
        assert text in line
        assert "\n" not in line
    assert not list((private / "artifacts").rglob("manifest.json"))


def test_a_special_token_without_a_row_is_refused_where_the_base_writes_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token("<image>", special=True)(folder)
    first = fetch_base(given(folder))
    assert "note: no text may hold <image>, for which the model has no embedding" in capsys.readouterr().out
    template = folder / "chat_template.jinja"
    template.write_text("<image>" + template.read_text())
    with pytest.raises(DataError, match="tokenizer.json has 1 tokens"):
        fetch_base(given(folder))
    assert open_base(load(["experiment=tiny"])).folder == first.folder


def test_a_base_of_another_shape_than_the_config_is_refused_key_by_key(folder: Path) -> None:
    shape = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 261,
    }
    told = [f"+model.architecture.{key}={value}" for key, value in shape.items()]
    with pytest.raises(ConfigError) as refused:
        fetch_base(given(folder, *told))
    assert [line.split(",")[0] for line in refused.value.problems] == [
        "model.architecture.intermediate_size=256",
        "model.architecture.num_hidden_layers=3",
    ]


def test_texts_that_the_licence_requires_are_named_and_taken_from_the_models_own_folder(
    store: MemoryFileSystem, private: Path
) -> None:
    record = private / "conf" / "licence" / "LicenseRef-test.yaml"
    record.write_text(record.read_text().replace("ships: [LICENSE]", "ships: [LICENSE.txt, USE_POLICY.md]"))
    own = private / "models" / "tiny_llama"
    own.mkdir(parents=True)
    run = given(f"memory:/{STORE}", f"paths.models_root={own.parent}")
    with pytest.raises(DataError, match=rf"holds no USE_POLICY\.md text; put the base's own into {own}"):
        fetch_base(run)
    (own / "USE_POLICY.md").write_text("Do no harm.\n")
    pinned = fetch_base(run)
    assert pinned.path("USE_POLICY.md").read_text() == "Do no harm.\n"


def test_more_bytes_than_are_free_are_refused_before_the_first(folder: Path, private: Path) -> None:
    needed = shutil.disk_usage(private).free + 10**10
    os.truncate(folder / SHARDS[0], needed)  # sparse: it takes no room here
    with pytest.raises(
        MachineError, match=r"the base needs \d+\.\d GB and \d+\.\d GB are free; free some space"
    ):
        fetch_base(given(folder))
    assert not list((private / "artifacts").rglob("*.safetensors"))


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were asked of the remote store, in order."""
    names: list[str] = []
    fetch = MemoryFileSystem.get_file

    def counted(system: MemoryFileSystem, path: str, target: str) -> None:
        names.append(path.rpartition("/")[2])
        if names.count("cut me") == 1 and path.endswith(SHARDS[1]):
            raise ConnectionError("the line went dead")
        fetch(system, path, target)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return names


def test_an_interrupted_download_pins_nothing_and_goes_on_where_it_stopped(
    store: MemoryFileSystem, private: Path, got: list[str]
) -> None:
    got.append("cut me")
    with pytest.raises(MachineError, match=r"memory://bucket/tiny cannot be read \(ConnectionError\)"):
        fetch_base(given(f"memory:/{STORE}"))
    assert not list((private / "artifacts").rglob("manifest.json"))
    got.clear()
    fetch_base(given(f"memory:/{STORE}"))
    assert got == SHARDS[1:]


def test_an_unchanged_source_is_not_fetched_again(store: MemoryFileSystem, got: list[str]) -> None:
    first = fetch_base(given(f"memory:/{STORE}"))
    got.clear()
    assert fetch_base(given(f"memory:/{STORE}")).folder == first.folder
    assert got == []


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("/nowhere/at/all", ConfigError, "/nowhere/at/all is no folder; give one, a URL such as"),
        ("memory://nowhere", DataError, "memory://nowhere holds no file; put some there or change FROM="),
        ("memory://bucket/tiny/config.json", ConfigError, "is one file; give the folder of the base"),
        ("s3://bucket/x", MachineError, "run `pip install s3fs`, the extra s3 of this project"),
        ("gs://bucket/x", MachineError, "run `pip install gcsfs`, the extra gs of this project"),
        ("az://bucket/x", MachineError, "run `pip install adlfs`, the extra az of this project"),
        ("s3://user:secret@bucket/x", ConfigError, "is a URL with a user, password or query string"),
        ("odd://host/x", ConfigError, "odd:// is no protocol that fsspec knows"),
        ("hub", ConfigError, "model.base.repo is not set; FROM=hub fetches that one"),
    ],
)
def test_a_source_that_cannot_be_meant_is_one_line(
    store: MemoryFileSystem, source: str, error: type[HallmarkError], told: str
) -> None:
    with pytest.raises(error) as refused:
        fetch_base(given(source))
    assert len(refused.value.problems) == 1
    assert told in refused.value.problems[0]
    assert "secret" not in refused.value.problems[0]


def test_of_the_hub_only_these_files_of_this_revision_are_asked_for() -> None:
    base = BaseConfig(BaseKind.folder, "x", repo="maker/model", revision="abc")
    assert snapshot_arguments(base, ["*.safetensors", "*.json"], Path("/into")) == {
        "repo_id": "maker/model",
        "revision": "abc",
        "allow_patterns": ["*.json", "*.safetensors"],
        "ignore_patterns": ["*/*", "*.py"],
        "local_dir": Path("/into/files"),
        "cache_dir": Path("/into/cache"),
    }


def command(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The entry point in a process of its own."""
    line = [sys.executable, "-m", "finetune.fetch_base", "experiment=tiny", *more]
    return subprocess.run(
        line, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_a_hub_that_cannot_be_reached_is_one_line(private: Path) -> None:
    done = command("model.base.source=hub", "model.base.repo=maker/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 5
    assert done.stderr.startswith("error: the model hub cannot give maker/model (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("break_it", "more", "code"),
    [
        (lambda folder: (folder / SHARDS[0]).unlink(), "model.base.revision=v1", 4),
        (lambda folder: None, f"model.base.sha256={'0' * 64}", 2),
        (lambda folder: None, "model.base.source=s3://bucket/x", 5),
    ],
)
def test_each_refusal_has_the_exit_code_of_its_kind(
    folder: Path, break_it: Callable[[Path], object], more: str, code: int
) -> None:
    break_it(folder)
    done = command(f"model.base.source='{folder}'", more)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_make_fetch_base_says_what_it_does_and_what_comes_next(folder: Path) -> None:
    line = ["make", "--no-print-directory", "fetch-base", "CONF=tiny", f"FROM={folder}", "ARGS="]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert f"fetching the base tiny_llama once from {folder}: 10 files, 0.2 MB" in said
    assert said[-2].startswith("fetch-base: ")
    assert (Path(said[-2].removeprefix("fetch-base: ")) / "manifest.json").is_file()
    assert said[-1] == "next: make prepare CONF=tiny"


def test_progress_says_bytes_rate_and_time_left() -> None:
    assert (
        progress_line("copied", 1_500_000_000, 6_000_000_000, 15)
        == "  copied 1.5 GB of 6.0 GB, 100.0 MB/s, 45 s left"
    )
