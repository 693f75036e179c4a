"""Where an installed Python package keeps its files, found without importing it."""

import importlib.metadata
import importlib.util
from pathlib import Path

from finetune.errors import MachineError


def package_folder(package: str, key: str) -> Path:
    """The package's folder; `key` is the setting that names it. Raises MachineError where it is not installed.

    Not imported: a package taken for its data may ask for a framework that nothing here needs.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(f"the Python package {package} ({key}) is not installed; run `make setup`")
    return Path(next(iter(spec.submodule_search_locations)))


def package_licence(package: str) -> Path | None:
    """The licence text that the package's distribution carries."""
    for name in importlib.metadata.packages_distributions().get(package, []):
        for file in importlib.metadata.files(name) or []:
            if file.name.upper().startswith(("LICENSE", "LICENCE")):
                return Path(str(file.locate()))
    return None
