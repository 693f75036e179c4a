"""evidence.json and evidence.md: which file proves what, and which points of which rules it touches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.artifacts import Artifact, Output
from finetune.artifacts.manifest import MANIFEST
from finetune.signing import SIGNATURE

MAPPING = Path(__file__).with_name("evidence.yaml")
CLAIM = (
    "Evidence for those who judge risk and law; not a claim that any rule is met. Which rules apply depends on the "
    "use, the place and the people concerned."
)
LATER = (MANIFEST, SIGNATURE)
"""Written after the index, so that it cannot hold their digests; the signature covers the index and the manifest."""


def write_evidence(inputs: Mapping[str, Artifact], output: Output) -> None:
    """Write both files: the pieces of evidence that there are, in this folder and in its inputs."""
    found = [item for item in (_placed(item, inputs, output) for item in mapping()) if item]
    output.write_json("evidence.json", {"claim": CLAIM, "evidence": found})
    output.write_text("evidence.md", _page(found))


def mapping() -> list[dict[str, Any]]:
    """The entries of evidence.yaml: file, where, proves, touches."""
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(MAPPING.read_text(encoding="utf-8"))
    return found


def _placed(item: Mapping[str, Any], inputs: Mapping[str, Artifact], output: Output) -> dict[str, Any] | None:
    """The entry with the artifact and digest of its file; None where this export has no such file."""
    name, where = item["file"], item["where"]
    if where == "export":
        is_there = name in LATER or (output.folder / name).is_file()
        return {**item, "artifact": None, "sha256": None} if is_there else None
    artifact = inputs.get(where)
    listed = {file["path"]: file["sha256"] for file in artifact.manifest.files} if artifact else {}
    if artifact is None or name not in listed:
        return None
    return {**item, "artifact": f"{artifact.manifest.name}/{artifact.manifest.run}", "sha256": listed[name]}


def _page(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Evidence",
        "",
        CLAIM,
        "",
        "Files of this folder are bound by `model.sig`; those of an artifact by the digest here, and they stay with "
        "the team that made them.",
        "",
        "| file | where | proves | touches |",
        "|---|---|---|---|",
    ]
    for item in found:
        digest = f", sha256 `{item['sha256'][:16]}`" if item["sha256"] else ""
        where = f"{item['where']} {item['artifact']}{digest}" if item["artifact"] else "this folder"
        lines.append(f"| `{item['file']}` | {where} | {item['proves']} | {'; '.join(item['touches'])} |")
    return "\n".join(lines) + "\n"
