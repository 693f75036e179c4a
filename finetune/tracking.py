"""wandb, offline unless asked: numbers, fingerprints and settings, never a row's text."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune.artifacts.manifest import plain
from finetune.config.schema import RunConfig, TrackingMode
from finetune.errors import ConfigError, MachineError


class Tracker(Protocol):
    """Takes numbers, at a step or as the summary of the run."""

    def log(self, values: Mapping[str, float], step: int | None = None) -> None: ...


class SilentTracker:
    """tracking.mode=disabled."""

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing."""


class WandbTracker:
    """One wandb run."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """A history row at `step`, or the run's summary without one."""
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log(dict(values), step=step)


@contextmanager
def open_run(run: RunConfig, job_type: str, run_id: str) -> Iterator[Tracker]:
    """The tracker of one stage: one wandb group an experiment, one run a stage.

    Raises ConfigError where online tracking lacks its key, MachineError where its folder cannot be written.
    """
    if run.tracking.mode is TrackingMode.disabled:
        yield SilentTracker()
        return
    _give_key(run)
    folder = _writable(Path(run.paths.runs))
    opened = _start(run, job_type, run_id, folder)
    try:
        yield WandbTracker(opened)
    except BaseException:
        opened.finish(exit_code=1)
        raise
    opened.finish()


def _start(run: RunConfig, job_type: str, run_id: str, folder: Path) -> Any:
    import wandb

    try:
        return wandb.init(
            project=run.tracking.project,
            group=run.name,
            job_type=job_type,
            id=f"{run.name}-{job_type}-{run_id}",
            name=f"{job_type}-{run_id}",
            resume="allow" if run.tracking.mode is TrackingMode.online else None,
            mode=_mode(run.tracking.mode),
            dir=folder,
            config={
                "model": plain(run.model),
                "train": plain(run.train),
                "data": run.data.name,
                "run": run_id,
            },
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,  # the command line may hold private settings
            ),
        )
    except wandb.Error as error:
        raise MachineError(
            f"wandb does not start ({type(error).__name__}); set tracking.mode=offline or disabled"
        ) from None


def _mode(mode: TrackingMode) -> Literal["online", "offline"]:
    return "online" if mode is TrackingMode.online else "offline"


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
