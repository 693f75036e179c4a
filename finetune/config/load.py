"""Compose the configuration with Hydra and hand it over as plain dataclasses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.checks import check
from finetune.config.folders import CONF, conf_folders
from finetune.config.messages import closest, one_line
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError

Section = TypeVar("Section")


def load(argv: Sequence[str]) -> RunConfig:
    """The checked configuration of `experiment=x key=value …`.

    Raises ConfigError: with Hydra's first problem, or with all unknown keys, missing values and
    impossible combinations at once.
    """
    composed = _compose(argv)
    problems = list(_unknown_keys(composed, RunConfig, ""))
    try:
        problems += [f"{key} is not set; give it a value" for key in sorted(OmegaConf.missing_keys(composed))]
        if problems:
            raise ConfigError(problems)
        run = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    assert isinstance(run, RunConfig)  # noqa: S101  (narrows the type; the schema guarantees it)
    problems = check(run)
    if run.name != _experiment(argv):
        problems.append(
            f"name={run.name} differs from its file; set name: {_experiment(argv)} in the experiment file"
        )
    problems += _unknown_data(run)
    if problems:
        raise ConfigError(problems)
    return run


def show(argv: Sequence[str]) -> str:
    """The composed configuration as YAML, with interpolations, and so secrets, unresolved."""
    return OmegaConf.to_yaml(_compose(argv), resolve=False).rstrip()


def recorded(schema: type[Section], section: Mapping[str, Any]) -> Section:
    """A config section as a manifest recorded it. Raises ConfigError where today's schema cannot hold it."""
    try:
        found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), section))
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"recorded by another version: {one_line(error)}; run the stage again that made it"
        ) from None
    assert isinstance(found, schema)  # noqa: S101  (narrows the type; the schema guarantees it)
    return found


def _unknown_data(run: RunConfig) -> Iterator[str]:
    known = sorted(path.stem for root in conf_folders() for path in (root / "data").glob("*.yaml"))
    for name in run.train.mix:
        if name not in known:
            yield f"train.mix.{name} is no data set{closest(name, known)}; one of: {', '.join(known)}"


def experiments() -> list[str]:
    """Names of all experiments, those of CONF_DIR included."""
    return sorted(path.stem for root in conf_folders() for path in (root / "experiment").glob("*.yaml"))


def _compose(argv: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException

    _require_experiment(argv)
    _refuse_doubled_names()
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    private = [f"hydra.searchpath=['file://{root}']" for root in conf_folders()[1:]]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=[*argv, *private])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from None


def _refuse_doubled_names() -> None:
    """Hydra lets the repository's file silently win over CONF_DIR's, so equal names are an error."""
    roots = conf_folders()
    if len(roots) == 1:
        return
    ours, private = ({path.relative_to(root) for path in root.rglob("*.yaml")} for root in roots)
    doubled = sorted(str(path) for path in ours & private)
    if doubled:
        raise ConfigError(
            [f"{name} stands both in conf/ and in CONF_DIR; rename the one in CONF_DIR" for name in doubled]
        )


def _experiment(argv: Sequence[str]) -> str:
    return next((item.split("=", 1)[1] for item in argv if item.startswith("experiment=")), "")


def _require_experiment(argv: Sequence[str]) -> None:
    name, known = _experiment(argv), experiments()
    if not name:
        raise ConfigError(
            f"no experiment given; add CONF=<name> (experiment=<name>), one of: {', '.join(known)}"
        )
    if name not in known:
        raise ConfigError(
            f"experiment {name} does not exist{closest(name, known)}; one of: {', '.join(known)}"
        )


def _unknown_keys(node: DictConfig, schema: type, prefix: str) -> Iterator[str]:
    """Keys that `+key=value` smuggled past the schema, which Hydra and to_object both accept."""
    hints, known = get_type_hints(schema), [item.name for item in fields(schema)]
    for key in map(str, node):
        if key not in known:
            yield f"{prefix}{key} is not a known key{closest(key, known, prefix)}"
            continue
        child: Any = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if not isinstance(child, DictConfig):
            continue
        if is_dataclass(hints[key]):
            yield from _unknown_keys(child, hints[key], f"{prefix}{key}.")
        entry = (get_args(hints[key]) or (None,))[-1]
        if isinstance(entry, type) and is_dataclass(entry):  # a table of sections, such as eval.tasks
            for name in map(str, child):
                found: Any = child._get_node(name)
                if isinstance(found, DictConfig):
                    yield from _unknown_keys(found, entry, f"{prefix}{key}.{name}.")
