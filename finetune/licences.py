"""What the licences of base, data and teachers allow, asked before anything is paid for. Rules, not legal advice."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

from finetune.config import RunConfig
from finetune.config.folders import conf_folders
from finetune.config.messages import closest
from finetune.config.schema import UseConfig
from finetune.errors import ConfigError, HallmarkError, RefusedError


@dataclass(frozen=True)
class Licence:
    """One record of conf/licence: every key stands there, null where the licence asks for nothing."""

    id: str
    """SPDX id, or LicenseRef-… where SPDX has none; also the name of the file."""
    title: str
    commercial: bool
    max_monthly_users: int | None
    notice: str | None
    """Text that the licence prescribes for a Notice file beside what is made from it."""
    display: str | None
    """Text that must be shown where the model is offered or described."""
    name_prefix: str | None
    """How the name of a model must begin."""
    ships: list[str]
    """Names of the texts that the base brings along and that must travel on."""
    binds_outputs: bool
    """Whether a model trained on the outputs is bound too, by display and name."""
    outputs_train_others: bool
    """Whether outputs may train a model under another licence."""
    clause: str
    """Which clause asks for what, in short."""
    source: str


SAID = {
    str: "text",
    bool: "true or false",
    int | None: "a whole number above 0, or null",
    str | None: "text, or null",
    list[str]: "a list of file names",
}


def require_lawful(run: RunConfig) -> list[Licence]:
    """The licences that bind this run, base first, then data and teacher, where all of them allow the declared use.

    Raises ConfigError where a record or a declaration is missing, RefusedError where a licence or the company's
    policy says no; every problem at once.
    """
    found = _records(declared(run))
    base, licences = found["model.licence"], unique(found.values())
    undeclared = list(_undeclared(run, licences))
    refused = [
        *(line for licence in licences for line in _use_problems(run.export.use, licence)),
        *_name_problems(run, binding(licences)),
        *(line for key, licence in found.items() for line in _output_problems(key, base, licence)),
        *_denied(run),
    ]
    if undeclared:
        raise ConfigError(undeclared + refused)
    if refused:
        raise RefusedError(refused)
    return licences


def read_licence(licence_id: str) -> Licence:
    """The record of a licence. Raises ConfigError where there is none, or where it is broken, naming file and key."""
    files = {path.stem: path for root in conf_folders() for path in (root / "licence").glob("*.yaml")}
    if licence_id not in files:
        raise ConfigError(
            f"licence {licence_id} has no record{closest(licence_id, list(files))}; add "
            f"CONF_DIR/licence/{licence_id}.yaml (docs/licences.md), or use one of: {', '.join(sorted(files))}"
        )
    found = _parse(files[licence_id])
    problems = list(_record_problems(found, files[licence_id]))
    if problems:
        raise ConfigError(problems)
    return Licence(**found)


def declared(run: RunConfig) -> dict[str, str]:
    """The licence ids that a configuration names, by their settings, the base's first."""
    ids = {"model.licence": run.model.licence, "data.licence": run.data.licence}
    teacher = run.data.teacher_licence
    return ids | ({"data.teacher_licence": teacher} if teacher else {})


def unique(licences: Iterable[Licence]) -> list[Licence]:
    """Each licence once, in order."""
    return list({licence.id: licence for licence in licences}.values())


def binding(licences: Sequence[Licence]) -> list[Licence]:
    """Those whose name and display rules hold for the model: the base's, and of the rest what binds by outputs."""
    base, *others = licences
    return [base, *(licence for licence in others if licence.binds_outputs)]


def strictest(licences: Sequence[Licence]) -> str:
    """What all of them together allow, in one line."""
    limits = [licence.max_monthly_users for licence in licences if licence.max_monthly_users]
    commercial = "allowed" if all(licence.commercial for licence in licences) else "not allowed"
    users = (
        f"up to {min(limits):,} monthly users of the company and its affiliates"
        if limits
        else "no limit of users"
    )
    return f"commercial use {commercial}, {users}"


def terms(licence: Licence) -> list[str]:
    """What a licence asks of the finished model, a line each, for people to read."""
    limit = licence.max_monthly_users
    return [
        f"{licence.title} ({licence.id}): commercial use {'yes' if licence.commercial else 'no'}, "
        + (f"up to {limit:,} monthly users" if limit else "no limit of users"),
        *([f"shows {json.dumps(licence.display)} where it is offered"] if licence.display else []),
        *([f"its name begins with {licence.name_prefix}"] if licence.name_prefix else []),
    ]


def _records(ids: Mapping[str, str]) -> dict[str, Licence]:
    found: dict[str, Licence] = {}
    problems: list[str] = []
    for key, licence_id in ids.items():
        try:
            found[key] = read_licence(licence_id)
        except HallmarkError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return found


def _undeclared(run: RunConfig, licences: Sequence[Licence]) -> Iterator[str]:
    """Settings without a default that one of the licences, or the policy, asks for."""
    for licence in licences:
        if not licence.commercial and run.export.use.commercial is None:
            yield (
                f"export.use.commercial is not set, and {licence.title} ({licence.clause}) asks: true where a company "
                "uses the model in whatever way, else false"
            )
        if licence.max_monthly_users and run.export.use.monthly_users is None:
            yield (
                f"export.use.monthly_users is not set, and {licence.title} ({licence.clause}) asks: the monthly "
                f"users of your company and its affiliates, at most {licence.max_monthly_users}"
            )
    if run.policy.deny and not run.model.origin:
        yield "model.origin is not set, so policy.deny cannot be checked; state maker and country, such as [Meta, US]"


def _use_problems(use: UseConfig, licence: Licence) -> Iterator[str]:
    if use.commercial and not licence.commercial:
        yield (
            f"export.use.commercial=true is what {licence.title} ({licence.id}; {licence.clause}) does not allow; take "
            "another base or other data, or agree a licence of your own with its owner"
        )
    limit = licence.max_monthly_users
    if limit is not None and (use.monthly_users or 0) > limit:
        yield (
            f"export.use.monthly_users={use.monthly_users} is above the {limit} of {licence.title} ({licence.id}; "
            f"{licence.clause}); take another base or other data, or agree a licence of your own with its owner"
        )


def _name_problems(run: RunConfig, licences: Sequence[Licence]) -> Iterator[str]:
    name = run.model.export_name
    prefixes = {item.name_prefix: item for item in licences if item.name_prefix}
    for prefix, licence in prefixes.items():
        if not name.startswith(str(prefix)):
            yield (
                f"model.export_name={name} must begin with {prefix} under {licence.title} ({licence.id}; "
                f"{licence.clause}); set model.export_name={prefix}-{name}"
            )


def _output_problems(key: str, base: Licence, licence: Licence) -> Iterator[str]:
    if not licence.outputs_train_others and base != licence:
        yield (
            f"{key}={licence.id}: outputs under {licence.title} ({licence.clause}) may not train a model under another "
            "licence; take other data, or a base under the same licence"
        )


def _denied(run: RunConfig) -> Iterator[str]:
    named = [*declared(run).items(), *(("model.origin", origin) for origin in run.model.origin)]
    for key, value in named:
        for pattern in run.policy.deny:
            if fnmatchcase(value.lower(), pattern.lower()):
                kind = "data" if key.startswith("data.") else "base"
                yield f"policy.deny={pattern} excludes {key}={value}; take another {kind}, or ask who keeps the policy"


def _parse(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path} is not YAML; docs/licences.md shows a record") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no keys; docs/licences.md shows a record")
    return found


def _record_problems(found: dict[str, Any], path: Path) -> Iterator[str]:
    hints, known = get_type_hints(Licence), [item.name for item in fields(Licence)]
    yield from (
        f"{path}: {key} is not a known key{closest(str(key), known)}" for key in found if key not in known
    )
    for key in known:
        if key not in found:
            yield f"{path}: {key} is missing; give it a value, or null where the licence asks for nothing"
        elif not _fits(found[key], hints[key]):
            yield f"{path}: {key}={found[key]!r} must be {SAID[hints[key]]}"
    if isinstance(found.get("id"), str) and found["id"] != path.stem:
        yield f"{path}: id={found['id']} differs from the name of its file; give both the same"


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, list):
        return hint == list[str] and all(isinstance(item, str) for item in value)
    return hint != list[str] and isinstance(value, hint) and value not in ("", 0)
