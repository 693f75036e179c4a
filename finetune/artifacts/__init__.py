"""Folders that say what made them: run ids, manifests, hashes, locks."""

from finetune.artifacts.folders import (
    Output,
    Spec,
    finished,
    has_current,
    open_current,
    open_input,
    open_last,
    open_run,
    require_input,
    writing,
)
from finetune.artifacts.lock import in_use, locked
from finetune.artifacts.manifest import Artifact, Manifest, input_record
from finetune.artifacts.room import require_room

__all__ = [
    "Artifact",
    "Manifest",
    "Output",
    "Spec",
    "finished",
    "has_current",
    "in_use",
    "input_record",
    "locked",
    "open_current",
    "open_input",
    "open_last",
    "open_run",
    "require_input",
    "require_room",
    "writing",
]
