"""`make review CONF=x`: a blinded sheet for experts; with FILE=filled.csv its score."""

import json
import sys

from eval.experts.words import told, told_sheet
from eval.experts.work import SCORES, make_sheet, score_sheets
from finetune import artifacts
from finetune.artifacts import Artifact
from finetune.config import RunConfig
from finetune.console import say
from finetune.stage import stage


def review(run: RunConfig) -> Artifact:
    """A sheet on the last report, or RUN='s, or with FILE= the score of filled ones; no gate, whatever the verdict."""
    report = artifacts.open_current(run.paths, "report", run.name, {"eval": run.eval}, run.run)
    if run.review.file is None:
        artifact = make_sheet(run, report)
        lines = told_sheet(artifact, run.name)
    else:
        artifact = score_sheets(run, report, run.review.file)
        lines = told(json.loads(artifact.path(SCORES).read_text(encoding="utf-8")))
    for line in lines:
        say(line)
    return artifact


if __name__ == "__main__":
    sys.exit(stage("review", review, sys.argv[1:]))
