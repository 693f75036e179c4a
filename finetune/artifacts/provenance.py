"""Which code and which library versions made a folder."""

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from finetune.artifacts.hashing import canonical, sha256_file, sha256_text

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("finetune", "data_prep", "eval")
LIBRARIES = (
    "torch transformers peft bitsandbytes trl accelerate datasets hydra-core safetensors scikit-learn".split()
)


@cache
def code() -> dict[str, Any]:
    """Commit, whether the tree differs from it, and a hash over the packages' sources."""
    sources = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    digest = sha256_text(canonical([(str(path.relative_to(ROOT)), sha256_file(path)) for path in sources]))
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "source": digest,
    }


@cache
def versions() -> dict[str, str]:
    """Installed versions of the libraries that decide the numbers."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
