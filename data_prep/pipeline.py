"""The steps of preparation in their order: read, select, split, check, write."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.card import card, told
from data_prep.checks import drop_covered, look_for_suspects, prove, suspect_lines
from data_prep.contamination import References
from data_prep.corpus import read_corpus
from data_prep.examples import Ids, RowMaker, SideCount, examples
from data_prep.facts import Made, facts
from data_prep.ledger import dropped_lines, ledger_lines
from data_prep.rows import SIDES
from data_prep.selection import drops_told, require_budget, select
from data_prep.sources import Source
from data_prep.split import divide
from finetune.artifacts import Output
from finetune.config.data import DataConfig
from finetune.console import say
from finetune.errors import RefusedError


@dataclass(frozen=True)
class Preparation:
    """What every step needs."""

    source: Source
    references: References
    data: DataConfig
    ids: Ids
    workers: int


def make(work: Preparation, output: Output) -> dict[str, Any]:
    """Prepare the source's documents and write every file of the run; what report.json says.

    Raises DataError or RefusedError; nothing is finished then.
    """
    with output.scratch() as folder:
        say(f"reading {work.source.name}, {len(work.source.files):,} file(s), {work.workers} process(es)")
        corpus = read_corpus(work.source, work.data, work.references, folder, work.workers)
        select(corpus, work.data)
        say(f"read {len(corpus.items):,} texts, kept {len(corpus.kept()):,}; {drops_told(corpus.items)}")
        kept = corpus.kept()
        say(f"joining near duplicates and splitting {len(kept):,} rows")
        division = divide(corpus, kept, work.data, lambda item: work.ids.row(item.origin))
        placed = examples(corpus, kept, division)
        members, coverage = drop_covered(corpus, placed, work.data)
        require_budget(corpus.items, work.data)
        say("verifying the split from scratch")
        proof = prove(corpus, members, work.data, work.ids, folder / "proof", work.workers)
        suspects, judged = look_for_suspects(corpus, members, work.data)
        rows = RowMaker(corpus, work.data, work.ids)
        for side in SIDES:
            output.write_jsonl(f"{side}.jsonl", rows.rows(members, side))
        _require_rows(rows.counts)
        output.write_jsonl("suspects.jsonl", suspect_lines(suspects, work.ids))
        contamination = {**asdict(coverage), "references_unjudged": work.references.unjudged}
        made = Made(corpus, members, rows.counts, len(division.edges), contamination, proof, judged)
        output.write_jsonl("ledger.jsonl", ledger_lines(corpus, placed, work.ids))
        return _report(work, made, output)


def _require_rows(counts: Mapping[str, SideCount]) -> None:
    empty = [side for side, count in counts.items() if not count.rows]
    if empty:
        raise RefusedError(
            f"{' and '.join(empty)} would have no row: {counts['train'].empty_left_out} training rows without an "
            "answer were left out; mark more passages, or raise data.windows.keep_empty_fraction"
        )


def _report(work: Preparation, made: Made, output: Output) -> dict[str, Any]:
    found = facts(work.data, made)
    for line in told(found):
        say(line)
    frozen = work.data.split.test_sha256
    if frozen is not None and found["test_sha256"] != frozen:
        raise RefusedError(
            f"the test set is {found['test_sha256']}, but data.split.test_sha256={frozen} freezes another; restore "
            "the source and the settings it was made from, or remove the setting to accept a new test set"
        )
    output.write_jsonl("dropped.jsonl", dropped_lines(made.corpus.items, work.ids))
    output.write_json("report.json", found)
    output.write_text("card.md", card(work.data, found))
    output.counts = {
        key: found[key] for key in ("read", "rows", "splits", "dropped", "components", "random_split")
    }
    return found
