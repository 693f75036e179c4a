"""Who may import whom (docs of the house): read from the source, so that a lazy import counts too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNEL = (
    "finetune.config",
    "finetune.artifacts",
    "finetune.chat",
    "finetune.errors",
    "finetune.console",
    "finetune.rows",
    "finetune.packages",
    "finetune.remote",
)
SERVICES = (
    "finetune.audit",
    "finetune.tracking",
    "finetune.metrics",
    "finetune.licences",
    "finetune.pages",
    "finetune.plots",
    "finetune.stage",
    "finetune.vllm_adapters",
)
ALLOWED = {
    "finetune": ("finetune",),
    "data_prep": ("data_prep", *KERNEL, *SERVICES),
    "eval": ("eval", *KERNEL, *SERVICES, "finetune.model", "finetune.generate"),
}
LIGHT = [
    *KERNEL,
    *(
        f"finetune.{name}"
        for name in "audit tracking metrics stage pages plots licences vllm_adapters".split()
    ),
]
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "sklearn",
    "wandb",
    "hydra",
    "jinja2",
}
OWN = ("finetune", "data_prep", "eval", "scripts", "tests")


def imports(path: Path) -> set[str]:
    """Our own modules that a file imports, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from finetune import tracking` imports finetune.tracking
            found |= {
                f"{node.module}.{alias.name}" if node.module == "finetune" else node.module
                for alias in node.names
            }
    return {name for name in found if name.split(".")[0] in OWN}


def files() -> list[Path]:
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    allowed = ALLOWED[path.relative_to(ROOT).parts[0]]
    wrong = {
        name
        for name in imports(path)
        if not any(name == base or name.startswith(f"{base}.") for base in allowed)
    }
    assert not wrong


def test_the_walk_sees_a_forbidden_import(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "def f():\n    from data_prep.split import divide\n    import eval.stats\n"
    )
    assert imports(tmp_path / "x.py") == {"data_prep.split", "eval.stats"}


def test_the_kernel_imports_no_heavy_library() -> None:
    code = f"import sys, importlib\nfor name in {LIGHT!r}: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{node.name} is longer than 40 lines"


def test_yaml_files_stay_small() -> None:
    assert all(path.read_text().count("\n") <= 40 for path in (ROOT / "conf").rglob("*.yaml"))
