"""sbom.cdx.json: the model, what it was made from, and every Python package that made it, as CycloneDX 1.6."""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.artifacts import Artifact

SBOM = "sbom.cdx.json"
SPDX = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*")
"""An SPDX expression without brackets: what most packages state."""


def sbom(name: str, licence: str, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """The bill of materials of an export (https://cyclonedx.org/docs/1.6/json); the same for the same environment."""
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": name,
        "version": inputs["adapter"].manifest.run,
        "licenses": _licences(licence),
    }
    made_from = [_input(key, artifact) for key, artifact in sorted(inputs.items())]
    packages = sorted(_packages(), key=lambda package: str(package["bom-ref"]))
    refs = [str(component["bom-ref"]) for component in (*made_from, *packages)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": [*made_from, *packages],
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": refs}],
    }


def _input(key: str, artifact: Artifact) -> dict[str, Any]:
    """Base, adapter, data set or report, by the digest over its files."""
    made = artifact.manifest
    kind = "machine-learning-model" if key in ("base", "adapter") else "data"
    found = {
        "type": kind,
        "bom-ref": f"{key}:{made.name}/{made.run}",
        "name": made.name,
        "version": made.run,
        "description": f"{key}; the hash is over the sorted digests of its files",
        "hashes": [{"alg": "SHA-256", "content": made.content}],
    }
    licence = made.config.get("data", {}).get("licence")
    return found | ({"licenses": _licences(licence)} if licence else {})


def _packages() -> Iterator[dict[str, Any]]:
    """Every installed distribution, once."""
    seen = set()
    for found in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower()  # PEP 503
        if not name or name in seen:
            continue
        seen.add(name)
        version = re.sub(r"\+.*", "", found.version)
        ref = f"pkg:pypi/{name}@{version}"
        licence = str(found.metadata.json.get("license_expression") or "")
        stated = {"licenses": [{"expression": licence}]} if SPDX.fullmatch(licence) else {}
        yield {
            "type": "library",
            "bom-ref": ref,
            "name": name,
            "version": found.version,
            "purl": ref,
            **stated,
        }


def _licences(licence: str) -> list[dict[str, Any]]:
    """An SPDX id, or the name of what SPDX does not list."""
    key = "name" if licence.startswith("LicenseRef-") else "id"
    return [{"license": {key: licence}}]
