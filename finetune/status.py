"""`make status CONF=x`: where each stage stands, asked from another shell; nothing is locked, nothing is written."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune import artifacts
from finetune.artifacts.folders import CHECKPOINTS
from finetune.artifacts.manifest import MANIFEST, Manifest, differences, plain, read_manifest
from finetune.artifacts.stages import COMMANDS, folder_of
from finetune.config import RunConfig, load
from finetune.console import clock, say
from finetune.errors import HallmarkError
from finetune.log_rows import LOG, Ends, read_ends, told
from finetune.stage import guarded

SECTIONS = {
    "data": ("data",),
    "plan": ("model", "train", "hardware", "plan"),
    "adapter": ("model", "train"),
    "report": ("eval",),
    "export": ("export",),
    "served": ("serve",),
}
"""The stages in their order, and the sections of the configuration that decide each."""
COMMAND = {"data": "prepare", "adapter": "train", "report": "eval", "served": "serve-check"}
SHOWN = 3
"""Differences of a stale run that are named."""


@dataclass(frozen=True)
class Place:
    """Where a configuration's runs of one stage are."""

    run: RunConfig
    stage: str

    @property
    def folder(self) -> Path:
        """The folder that holds them."""
        name = self.run.data.name if self.stage == "data" else self.run.name
        return folder_of(Path(self.run.paths.artifacts_root), self.stage, name)

    @property
    def current(self) -> str | None:
        """The run that the next stage would take."""
        path = self.folder / "current"
        return path.read_text().strip() if path.is_file() else None


def lines(run: RunConfig) -> Iterator[str]:
    """What there is to say of every stage, one line a run that matters: current, running or interrupted."""
    current: dict[str, str] = {}
    for stage in SECTIONS:
        place = Place(run, stage)
        label = f"{COMMAND.get(stage, stage):<11}"
        found = [f"{label} {line}" for line in _stage_lines(place, current)]
        yield from found or [f"{label} not made yet; {COMMANDS[stage].replace('CONF=…', f'CONF={run.name}')}"]


def _stage_lines(place: Place, current: dict[str, str]) -> Iterator[str]:
    """`current` holds the content of each current run so far and takes this stage's."""
    folders = [path for path in place.folder.iterdir() if path.is_dir()] if place.folder.is_dir() else []
    for folder in sorted(folders, key=_last_written):
        is_current = folder.name == place.current
        if folder.name.startswith("."):
            continue
        if artifacts.in_use(folder):
            yield f"{folder}: {_running(folder)}"
        elif not (folder / MANIFEST).is_file():
            yield f"{folder}: {_interrupted(folder)}"
        elif is_current:
            yield f"{folder}: {_finished(place, folder, current)}"


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder / LOG, folder / MANIFEST, folder) if path.exists())


def _running(folder: Path) -> str:
    ends = _ends(folder)
    if (folder / MANIFEST).is_file():
        return "in use: a finished run that is being looked at"
    if ends is None:
        return "running"
    if not ends.header:
        return "running; how many steps it takes is not known before its first one"
    return f"running, {_progress(ends, with_rest=True)}{_checkpoint(folder)}, {_age(folder / LOG)}"


def _interrupted(folder: Path) -> str:
    ends = _ends(folder)
    if ends is None or not ends.header:
        return "interrupted before it had made anything; the same command starts again"
    return f"interrupted, {_progress(ends, with_rest=False)}{_checkpoint(folder)}, {_age(folder / LOG)}"


def _ends(folder: Path) -> Ends | None:
    """The two ends of a training run's log; None where it has none."""
    return read_ends(folder / LOG) if (folder / LOG).is_file() else None


def _progress(ends: Ends, *, with_rest: bool) -> str:
    """`step 120 of 400, loss …, 12 min left`."""
    total, last = ends.header["total_steps"], ends.last
    if not last:
        return f"no step of {total} logged yet"
    text = f"step {last['step']} of {total}, {told(last, ends.header.get('planned_peak_gib'))}"
    speed = last["train/tokens_per_s"]
    if not with_rest or not speed:
        return text
    left_s = (ends.header["total_tokens"] - last["train/tokens"]) / speed
    return f"{text}, {clock(left_s)} left"


def _checkpoint(folder: Path) -> str:
    """The step of the last checkpoint that is whole as far as its name tells; reading it is training's work."""
    steps = [
        int(path.parent.name.removeprefix("step-"))
        for path in (folder / CHECKPOINTS).glob("step-*/checkpoint.json")
    ]
    return f", checkpoint of step {max(steps)}" if steps else ", no checkpoint yet"


def _age(path: Path) -> str:
    return f"last wrote {clock(max(0.0, time.time() - path.stat().st_mtime))} ago"


def _finished(place: Place, folder: Path, current: dict[str, str]) -> str:
    try:
        made = read_manifest(folder, COMMANDS[place.stage])
    except HallmarkError as error:
        return str(error)
    current[place.stage] = made.content
    text = f"finished {made.created}, took {clock(made.seconds)}"
    problems = [*_changed_settings(place, made), *_changed_inputs(made, current)]
    if not problems:
        return text
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{text}; STALE: {'; '.join(problems[:SHOWN])}{more}"


def _changed_settings(place: Place, made: Manifest) -> Iterator[str]:
    today = {name: plain(getattr(place.run, name)) for name in SECTIONS[place.stage]}
    return differences({name: made.config.get(name) for name in today}, today)


def _changed_inputs(made: Manifest, current: Mapping[str, str]) -> Iterator[str]:
    """Only what is under this configuration's names: an input that RUN= named is meant."""
    for key, item in made.inputs.items():
        now = current.get(item["stage"])
        if now is not None and now != item["content"]:
            yield f"made from {key} {item['run']}, which is not the current one"


def show(run: RunConfig) -> None:
    """Print the state of every stage of a configuration."""
    for line in lines(run):
        say(line)


if __name__ == "__main__":
    sys.exit(guarded(lambda: show(load(sys.argv[1:]))))
