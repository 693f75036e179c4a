"""The two runs of a review: a sheet drawn from a report, and the score of filled ones."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.arms import ADAPTER
from eval.experts.drawing import draw, lot, read_sides
from eval.experts.returned import Judgement, files_of, judged, read_lines, sheet_of
from eval.experts.scoring import detectable_win_rate, score, unblinded
from eval.experts.sheet import KEY, write_sheet
from finetune import artifacts
from finetune.artifacts import Artifact, Spec, input_record
from finetune.artifacts.hashing import sha256_file
from finetune.artifacts.key import private_key
from finetune.config import RunConfig, recorded
from finetune.config.eval import EvalConfig
from finetune.errors import ConfigError
from finetune.rows import read_rows

SCORES, JUDGEMENTS = "review.json", "judgements.jsonl"


def make_sheet(run: RunConfig, report: Artifact) -> Artifact:
    """The sheet of a report, with its key beside it."""
    data = artifacts.open_input(run.paths, report, "data")
    inputs = {"report": input_record(report), "data": input_record(data)}
    spec = Spec("review", 1, run.name, {"review": run.review}, inputs)
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            config, against = _eval_of(report), run.review.against
            sides = read_sides(report, against, config.primary, config.tasks[config.primary].kind)
            lots = lot(private_key(run.paths), report.manifest.content)
            drawn = draw(sides, read_rows(data.path("test.jsonl")), run.review.rows, lots)
            about = {"report": report.manifest.run, "task": config.primary}
            write_sheet(output, drawn, {**about, "against": against, "adapter": ADAPTER})
            output.counts |= {"detectable_win_rate": detectable_win_rate(drawn.groups(), config)}
    return output.made()


def score_sheets(run: RunConfig, report: Artifact, given: str) -> Artifact:
    """review.json on filled sheets of this report.

    Raises ConfigError where the sheet is of another one, DataError where a file is not what was given out.
    """
    files = files_of(given)
    lines = [read_lines(path) for path in files]
    sheet = _open_sheet(run, sheet_of(lines), report)
    key = json.loads(sheet.path(KEY).read_text(encoding="utf-8"))
    found = [judged(each, key["items"]) for each in lines]
    inputs = {"review": input_record(sheet)}
    inputs |= {f"reviewer {number}": _record(path) for number, path in enumerate(files, 1)}
    with artifacts.writing(
        run.paths, Spec("reviewed", 1, run.name, {}, inputs), move_current=False
    ) as output:
        if output.finished is None:
            output.write_json(SCORES, score(key, found, _eval_of(report)))
            output.write_jsonl(JUDGEMENTS, _rows(key, found))
    return output.made()


def _open_sheet(run: RunConfig, name: str, report: Artifact) -> Artifact:
    try:
        sheet = artifacts.open_run(run.paths, "review", run.name, name)
    except ConfigError as error:
        raise ConfigError(f"sheet {name} was not given out by {run.name}: {error}") from None
    drawn_from = sheet.manifest.inputs["report"]
    if drawn_from["content"] != report.manifest.content:
        raise ConfigError(
            f"sheet {name} is of report {drawn_from['run']}, not of {report.manifest.run}; "
            f"add RUN={drawn_from['run']} to score it"
        )
    return sheet


def _eval_of(report: Artifact) -> EvalConfig:
    return recorded(EvalConfig, report.manifest.config["eval"])


def _record(path: Path) -> dict[str, str]:
    return {"stage": "file", "name": path.name, "run": "", "content": sha256_file(path)}


def _rows(key: Mapping[str, Any], found: list[list[Judgement]]) -> Iterator[dict[str, Any]]:
    """Every judgement with its row and the arm that was chosen."""
    rows = {item["item"]: item["row"] for item in key["items"]}
    for reviewer, judgements in enumerate(found, 1):
        for item in judgements:
            chosen = unblinded(key, item)
            yield {"reviewer": reviewer, "id": rows[item.number], "choice": chosen, "comment": item.comment}
