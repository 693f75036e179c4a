"""What of an interrupted merge is kept in a run folder; known before torch is."""

from finetune.artifacts import Artifact
from finetune.artifacts.folders import CHECKPOINTS
from finetune.base_checks import shards


def kept_names(pinned: Artifact) -> set[str]:
    """Names in an export's folder from which an interrupted merge goes on: finished files, and the records of them."""
    return {CHECKPOINTS, *(path.name for path in shards(pinned.folder))}
