"""Where each stage keeps its runs, and the command that makes them."""

from pathlib import Path

FOLDERS = {
    "base": "bases",
    "quantised": "bases",
    "data": "data",
    "plan": "plans",
    "preflight": "preflights",
    "adapter": "adapters",
    "report": "reports",
    "export": "exports",
    "served": "served",
    "review": "reviews",
    "reviewed": "reviews",
}
SUFFIXES = {"quantised": "-nf4", "reviewed": "-scored"}
"""What a run id ends with, where runs of two stages share a folder."""
COMMANDS = {
    "base": "run `make fetch-base CONF=…`",
    "quantised": "run `make quantise-base CONF=…`",
    "data": "run `make prepare CONF=…`",
    "plan": "run `make plan CONF=…`",
    "preflight": "run `make preflight CONF=…`",
    "adapter": "run `make train CONF=…`",
    "report": "run `make eval CONF=…`",
    "export": "run `make export CONF=…`",
    "served": "run `make serve-check CONF=…`",
    "review": "run `make review CONF=…`",
    "reviewed": "run `make review CONF=… FILE=…`",
}


def folder_of(root: Path, stage: str, name: str) -> Path:
    """The folder that holds all runs of a stage under a name."""
    return root / FOLDERS[stage] / name
