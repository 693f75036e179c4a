"""wandb, offline unless asked: numbers, fingerprints and settings, never a row's text."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune.artifacts import Spec
from finetune.config.schema import RunConfig, TrackingMode
from finetune.errors import EXIT_BUG, ConfigError, MachineError
from finetune.log_rows import Row
from finetune.metrics import HISTORY, JobType

Cell = float | str | None
Values = Mapping[str, Cell]

PUBLIC = "name licence export_name origin repo revision sha256 model_type targets primary device".split()
"""Settings whose text may be sent. Any other text of a configuration (a prompt, a path, labels) stays here."""
FLUSH_S = 1.0
"""wandb writes to its file this often; its 15 seconds are what a killed run would lack."""
READ_S = 120
SERVICE = "WANDB_SERVICE"
"""By this variable wandb's background process is shared with child processes, where a killed one's run stays in use."""


class Tracker(Protocol):
    """Takes numbers, at a step or as the summary of the run; None is passed over. Tables are of numbers and names."""

    def log(self, values: Values, step: int | None = None) -> None: ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None: ...


class SilentTracker:
    """tracking.mode=disabled."""

    def log(self, values: Values, step: int | None = None) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Do nothing."""


class WandbTracker:
    """One wandb run; steps up to `after` are there already and are not sent again."""

    def __init__(self, run: Any, after: int = -1) -> None:
        self.run, self.after = run, after

    def log(self, values: Values, step: int | None = None) -> None:
        """A history row at `step`, or the run's summary without one."""
        known = {name: value for name, value in values.items() if value is not None}
        if step is None:
            self.run.summary.update(known)
        elif step > self.after:
            self.run.log(known, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table of the run as a whole; a cell that is None stays empty."""
        import wandb

        # a column of one type alone would refuse an empty cell
        made = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self.run.log({name: made})


@contextmanager
def open_run(
    run: RunConfig, job_type: JobType, spec: Spec, history: Sequence[Row] | None = None
) -> Iterator[Tracker]:
    """The tracker of one stage: one wandb group an experiment, one run a stage, its id that of the stage's run.

    `history` makes it go on instead of beginning anew: the rows of log.jsonl up to the step that training goes on
    from. What of them a kill kept from wandb is sent now, what wandb holds beyond them is not sent again. Raises
    ConfigError where online tracking lacks its key, MachineError where its folder cannot be written.
    """
    if run.tracking.mode is TrackingMode.disabled:
        yield SilentTracker()
        return
    _give_key(run)
    opened = _start(run, job_type, spec, history is not None)
    try:
        yield _continued(run, opened, history)
        if run.tracking.mode is TrackingMode.online:
            _record_lineage(opened, spec)
    except BaseException as error:
        opened.finish(exit_code=getattr(error, "exit_code", EXIT_BUG))
        raise
    opened.finish()


def _start(run: RunConfig, job_type: JobType, spec: Spec, resumed: bool) -> Any:
    folder = _writable(Path(run.paths.runs))
    import wandb

    os.environ.pop(SERVICE, None)
    try:
        return wandb.init(
            project=run.tracking.project,
            group=run.name,
            job_type=job_type.value,
            id=f"{run.name}-{job_type.value}-{spec.run()}",
            name=f"{job_type.value}-{spec.run()}",
            resume="allow" if resumed and run.tracking.mode is TrackingMode.online else None,
            mode=_mode(run.tracking.mode),
            dir=folder,
            config=_config(run, spec, resumed),
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,  # the command line may hold private settings
                x_transaction_log_flush_interval=FLUSH_S,
            ),
        )
    except wandb.Error as error:
        raise MachineError(
            f"wandb does not start ({type(error).__name__}); set tracking.mode=offline or disabled"
        ) from None
    finally:
        os.environ.pop(SERVICE, None)


def _mode(mode: TrackingMode) -> Literal["online", "offline"]:
    return "online" if mode is TrackingMode.online else "offline"


def _config(run: RunConfig, spec: Spec, resumed: bool) -> dict[str, Any]:
    """What made the run: the stage's sections, and of each input its fingerprint."""
    named = {"model_name": run.model.name, "data_name": run.data.name, "hardware_name": run.hardware.name}
    inputs = {key: {"run": item["run"], "content": item["content"]} for key, item in spec.inputs.items()}
    return {"run": spec.run(), "resumed": resumed, "inputs": inputs, **named, **public(spec.config)}


def public(section: Any) -> dict[str, Any]:
    """A config section without its private text: numbers, switches, choices, the names in PUBLIC; of lists the length.

    What is left out is not named either.
    """
    if is_dataclass(section):
        section = {item.name: getattr(section, item.name) for item in fields(section)}
    found = {str(key): _public(str(key), value) for key, value in section.items()}
    return {key: value for key, value in found.items() if value is not None}


def _public(key: str, value: Any) -> Any:
    if is_dataclass(value) or isinstance(value, Mapping):
        return public(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple) and not all(isinstance(item, int | float) for item in value):
        return list(value) if key in PUBLIC else len(value)
    if isinstance(value, str):
        return value if key in PUBLIC else None
    return value


def _continued(run: RunConfig, opened: Any, history: Sequence[Row] | None) -> WandbTracker:
    """The tracker at the place where the history goes on, and the rows that a kill kept from it."""
    if history is None:
        return WandbTracker(opened)
    held = int(opened.starting_step) - 1  # online: the server knows
    if run.tracking.mode is TrackingMode.offline:
        held = _last_step(Path(run.paths.runs) / "wandb", opened.id)
    tracker = WandbTracker(opened, held)
    for row in history:
        values = {name: row[name] for name in HISTORY if name in row}
        if values:
            tracker.log(values, step=row["step"])
    return tracker


def _last_step(folder: Path, run_id: str) -> int:
    """The last step in the earlier files of this offline run, back to where it last began anew; -1: there is none."""
    for path in sorted(folder.glob(f"offline-run-*-{run_id}/*.wandb"), reverse=True):
        records = read_records(path)
        steps = [item["history"]["item"]["_step"] for item in records if item["type"] == "history"]
        if steps:
            return int(max(steps))
        if any(item["run"]["config"]["update"].get("resumed") is False for item in records if "run" in item):
            break
    return -1


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .wandb file, as far as it was written; wandb's own command reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=READ_S)
    except subprocess.TimeoutExpired:
        raise MachineError(f"{path} cannot be read within {READ_S} s; delete {path.parent}") from None
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _record_lineage(opened: Any, spec: Spec) -> None:
    """What the run was made from and what it made, as artifacts: wandb takes that online alone."""
    for record in spec.inputs.values():
        opened.use_artifact(fingerprint(record))
    made = {"stage": spec.stage, "name": spec.name, "run": spec.run()}
    opened.log_artifact(fingerprint(made))


def fingerprint(record: Mapping[str, str]) -> Any:
    """A wandb artifact that stands for a run folder or a source: its stage, name and run, never a file of it.

    The same record gives the same digest, so that what one stage makes is what the next one uses.
    """
    import wandb

    # a source has no run, and its name may be a path
    label = f"{record['name']}-{record['run']}" if record["run"] else record["content"][:8]
    artifact = wandb.Artifact(f"{record['stage']}-{label}", record["stage"])
    if "content" in record:
        artifact.metadata = {"content": record["content"]}
    with artifact.new_file("fingerprint.json") as stream:
        json.dump({"stage": record["stage"], "label": label}, stream)
    return artifact


def _give_key(run: RunConfig) -> None:
    """Hand the configured variable's value to wandb, which reads its own."""
    name = run.tracking.key_from_env
    if run.tracking.mode is not TrackingMode.online:
        return
    if os.environ.get(name):
        os.environ["WANDB_API_KEY"] = os.environ[name]
    else:
        raise ConfigError(
            f"tracking.mode=online needs the environment variable {name} (tracking.key_from_env); set it"
        )


def _writable(folder: Path) -> Path:
    """wandb falls back to a temporary folder without a word; here it is an error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise MachineError(
            f"{folder} cannot be written ({error.strerror}), so wandb has no folder; "
            "set paths.runs to another, or tracking.mode=disabled"
        ) from None
    return folder
