"""`make quantise-base CONF=x`: the pinned base in 4 bits on disk, which every later stage reads instead."""

import sys

from finetune import base
from finetune.artifacts import Artifact
from finetune.config import RunConfig
from finetune.kept_base import quantise_base
from finetune.stage import stage


def run(run: RunConfig) -> Artifact:
    """Quantise the base of this configuration, pinned first where none is, or return it where it was quantised."""
    return quantise_base(run, base.open_base(run))


if __name__ == "__main__":
    sys.exit(stage("quantise-base", run, sys.argv[1:]))
