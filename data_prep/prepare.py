"""`make prepare CONF=x`: private documents to train, val and test rows whose split does not leak."""

import sys

from data_prep.card import card, facts, told
from data_prep.ledger import Ids, dropped_lines, ledger_lines, make_rows, placed
from data_prep.rows import by_side
from data_prep.selection import select
from data_prep.sources import Source, open_source
from data_prep.split import divide
from data_prep.verify_split import verify
from finetune.artifacts import Artifact, Output, Spec, writing
from finetune.artifacts.key import private_key
from finetune.config import RunConfig
from finetune.config.schema import DataConfig
from finetune.console import say
from finetune.stage import stage

VERSION = 1
"""Raised by hand when other code makes other rows of the same data and settings."""


def prepare(run: RunConfig) -> Artifact:
    """The prepared data of this configuration: made now, or found finished and intact."""
    source = open_source(run.data, run.paths)
    spec = Spec("data", VERSION, run.data.name, {"data": run.data}, {"source": source.record()})
    with writing(run.paths, spec, move_current=True) as output:
        if output.finished is None:
            _make(source, run.data, Ids(private_key(run.paths)), output)
        else:
            say("nothing to do: made before from this very source and these settings, and intact")
    return output.made()


def _make(source: Source, data: DataConfig, ids: Ids, output: Output) -> None:
    say(f"reading {source.name}, {len(source.files):,} file(s)")
    selection = select(source.read(), data)
    say(selection.told())
    division = divide(selection.documents, data)
    rows = make_rows(selection.documents, division.component_of, data, ids)
    proof = verify(placed(selection.documents, rows, division.sides), data.near_duplicates, data.seed)
    parts = by_side(selection.documents, rows, division.sides, data.seed)
    found = facts(data, selection, parts, len(division.pairs), proof)
    for line in told(found):
        say(line)
    for side, members in parts.items():
        output.write_jsonl(f"{side}.jsonl", (row.as_json() for row in members))
    output.write_jsonl("ledger.jsonl", ledger_lines(selection, rows, division.sides, ids))
    output.write_jsonl("dropped.jsonl", dropped_lines(selection.drops, ids))
    output.write_json("report.json", found)
    output.write_text("card.md", card(data, found))
    output.counts = {
        key: found[key] for key in ("read", "rows", "splits", "dropped", "components", "random_split")
    }


if __name__ == "__main__":
    sys.exit(stage("prepare", prepare, sys.argv[1:]))
