"""Licence notices and the licence expressions that experts gave them, from ScanCode's data.

ScanCode LicenseDB, nexB Inc. and others, CC BY 4.0, https://scancode-licensedb.aboutcode.org,
as packed in the PyPI wheel licensedcode-data. Rule files are named after their licence, so a
name never enters the text.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from data_prep.labels import require_known
from data_prep.rows import Ask, Document, Drop, Origin
from data_prep.sources.source import Source
from finetune.artifacts.hashing import sha256_file
from finetune.config.data import DataConfig
from finetune.config.schema import PathsConfig
from finetune.console import progress
from finetune.errors import MachineError
from finetune.packages import package_folder

RULES = Path("data") / "rules"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
FENCE = "---\n"


def open_notices(data: DataConfig, _paths: PathsConfig, _workers: int) -> Source:
    """The rules of the installed package. Raises MachineError where it is not installed."""
    package = str(data.source.package)
    root = package_folder(package, "data.source.package")
    files = {str(path.relative_to(root)): sha256_file(path) for path in sorted((root / RULES).glob("*.RULE"))}
    if not files:
        raise MachineError(f"package {package} (data.source.package) has no {RULES}/*.RULE; run `make setup`")
    return Source(package, files, partial(_notices, data, root, files))


def _notices(data: DataConfig, root: Path, files: dict[str, str]) -> Iterator[Document | Drop]:
    for name, digest in progress(files.items(), "reading rules", len(files)):
        raw = (root / name).read_bytes()
        whole = raw.decode("utf-8", errors="replace")
        if "\ufffd" in whole and b"\xef\xbf\xbd" not in raw:
            yield Drop(Origin(name, digest, 0, len(whole)), "not UTF-8")
            continue
        yield _notice(data, str(root / name), Origin(name, digest, 0, len(whole)), whole)


def _notice(data: DataConfig, where: str, file: Origin, whole: str) -> Document | Drop:
    facts, body = _parsed(whole)
    expression = facts.get("license_expression")
    start = len(whole) - len(body)
    origin = Origin(
        file.path, file.sha256, start + len(body) - len(body.lstrip()), start + len(body.rstrip())
    )
    text = body.replace("{{", "").replace("}}", "")  # marks of required phrases, no part of the notice
    filtered = _filtered(data, facts, len(text.split()))
    if filtered:
        return Drop(origin, filtered, lost=False)
    if not isinstance(expression, str) or not expression.strip():
        return Drop(origin, "no licence expression")
    require_known(expression, data.labels, f"{where}: license_expression")
    return Document(origin, text, (Ask("", expression),))


def _filtered(data: DataConfig, facts: dict[str, Any], words: int) -> str:
    """Why the settings want no row of this rule; empty where they do."""
    lowest, highest = data.source.min_words, data.source.max_words
    if facts.get("is_deprecated"):
        return "deprecated rule"
    if facts.get("is_false_positive"):
        return "false-positive rule"
    if not facts.get("is_license_notice"):
        return "not a licence notice"
    if lowest is not None and words < lowest:
        return f"fewer than {lowest} words"
    if highest is not None and words > highest:
        return f"more than {highest} words"
    return ""


def _parsed(whole: str) -> tuple[dict[str, Any], str]:
    """Front matter and body; empty facts where the front matter is no YAML mapping."""
    head, fence, body = whole.removeprefix(FENCE).partition("\n" + FENCE)
    if not whole.startswith(FENCE) or not fence:
        return {}, whole
    try:
        facts = yaml.load(head, Loader=LOADER)  # noqa: S506  (a safe loader, in C where there is one)
    except yaml.YAMLError:
        return {}, whole
    return (facts if isinstance(facts, dict) else {}), body
