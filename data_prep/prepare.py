"""`make prepare CONF=x`: private documents to train, val and test rows whose split does not leak."""

import os
import sys
from pathlib import Path

from data_prep.contamination import load_references
from data_prep.examples import Ids
from data_prep.facts import numbers
from data_prep.pipeline import Preparation, make
from data_prep.sources import open_source
from data_prep.sources.source import hashed, record
from finetune.artifacts import Artifact, Spec, writing
from finetune.artifacts.key import private_key
from finetune.config import RunConfig
from finetune.console import say
from finetune.metrics import JobType
from finetune.stage import stage
from finetune.tracking import open_run

VERSION = 3
"""Raised by hand when other code makes other rows of the same data and settings."""


def prepare(run: RunConfig) -> Artifact:
    """The prepared data of this configuration: made now, or found finished and intact."""
    workers = run.hardware.workers or len(os.sched_getaffinity(0))
    source = open_source(run.data, run.paths, workers)
    settings = run.data.contamination
    inputs = {"source": source.record()}
    if settings.references:
        inputs["references"] = record("references", hashed(settings.references, run.paths))
    spec = Spec("data", VERSION, run.data.name, {"data": run.data}, inputs)
    with writing(run.paths, spec, move_current=True) as output:
        if output.finished is None:
            references = load_references(settings.references, Path(run.paths.data_root), settings)
            with open_run(run, JobType.prepare, spec) as tracker:
                work = Preparation(source, references, run.data, Ids(private_key(run.paths)), workers)
                tracker.log(numbers(make(work, output)))
        else:
            say("nothing to do: made before from this very source and these settings, and intact")
    return output.made()


if __name__ == "__main__":
    sys.exit(stage("prepare", prepare, sys.argv[1:]))
