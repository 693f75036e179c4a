"""What the rows are as tokens: which are learned, which are left out and why, and whether a server would send the same.

Counts and opaque ids only, never a text; the tokenizer's own marks are named.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.artifacts import Output
from finetune.chat import Renderer
from finetune.config.schema import TrainConfig
from finetune.console import progress, say
from finetune.errors import RefusedError
from finetune.row_tokens import Examiner, Fault, RowTokens

NAMED = 10
"""Documents that a line names; `make show-mask` lists all."""


@dataclass(frozen=True)
class TokenReport:
    """The counts of a set of rows, its documents that lost rows, and what is worth knowing."""

    rows: int
    faults: Counter[Fault]
    totals: dict[str, int]
    """trained_tokens, trained_characters, tokens and the rows of each finding, over the rows that are kept."""
    longest: int
    marks: list[str]
    """The marks found in texts."""
    documents: list[dict[str, Any]]
    """Those that lost rows: opaque id, data set where several are mixed, its rows, and how many each fault took."""
    bos: str | None
    tokenizer_adds_bos: bool
    end_tokens: list[str]
    data: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each mixed data set: its rows, the rows that a step sees, and their trained tokens."""

    @property
    def kept(self) -> int:
        """Rows that are not left out."""
        return self.rows - sum(self.faults.values())

    def as_json(self) -> dict[str, Any]:
        """What tokens.json holds."""
        return {
            **self.figures(),
            "marks_in_texts": self.marks,
            "bos": self.bos,
            "tokenizer_adds_bos": self.tokenizer_adds_bos,
            "end_tokens": self.end_tokens,
            "data": self.data,
            "documents": self.documents,
            "notes": list(self.notes()),
        }

    def figures(self) -> dict[str, int]:
        """Every count over all rows."""
        left_out = {f"rows_{fault.name}": self.faults[fault] for fault in Fault}
        return {"rows": self.rows, "rows_kept": self.kept, **left_out, **self.totals, "longest": self.longest}

    def counts(self) -> dict[str, int]:
        """What the manifest holds beside the steps' counts."""
        left_out = {f"rows_{fault.name}": self.faults[fault] for fault in Fault}
        return {**left_out, "rows_with_another_seam": self.totals["rows_with_another_seam"]}

    def summary(self) -> str:
        """One line for the terminal."""
        lost = ", ".join(f"{self.faults[fault]} {fault.name.replace('_', ' ')}" for fault in Fault)
        return (
            f"{self.kept} of {self.rows} rows kept ({lost}; {len(self.documents)} documents lost rows); "
            f"{self.totals['trained_characters']} characters in {self.totals['trained_tokens']} tokens are learned, "
            f"each answer up to {' or '.join(self.end_tokens)}"
        )

    def lines(self) -> Iterator[str]:
        """What the terminal is told: the summary, the data sets of a mix, the notes."""
        yield self.summary()
        for name, of in self.data.items():
            yield (
                f"  {name}: {of['rows_seen']} rows in the steps, {of['rows_seen'] / of['rows']:.2f} times each of its "
                f"{of['rows']}; {of['trained_tokens']} trained tokens"
            )
        yield from (f"note: {line}" for line in self.notes())

    def notes(self) -> Iterator[str]:
        """What does not stop a run, and should be known."""
        begins, seams = self.totals["rows_with_bos"], self.totals["rows_with_another_seam"]
        if self.tokenizer_adds_bos and begins:
            yield (
                f"template and tokenizer both write {self.bos}: whoever sends rendered text to a server must ask for "
                "add_special_tokens=false, or it stands twice"
            )
        if self.tokenizer_adds_bos and not begins:
            yield (
                f"the tokenizer begins texts with {self.bos}, the chat template does not: these prompts lack a token "
                "that the base was trained with; compare the template with its maker's"
            )
        if seams:
            yield (
                f"{seams} rows would be other tokens if prompt and answer were tokenised as one text; they are trained "
                "apart, as generation makes them"
            )
        if altered := self.totals["rows_altered_by_template"]:
            yield f"the template changes the answers of {altered} rows, such as by trimming them"


def examine_rows(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, max_tokens: int
) -> tuple[list[RowTokens], TokenReport]:
    """Every row as tokens in the given order, those with a fault too, and the report of all; refuses nothing."""
    examiner = Examiner(renderer, max_tokens)
    found = [examiner(row) for row in progress(rows, "rows as tokens", len(rows))]
    kept = [row for row in found if row.fault is None]
    bos = renderer.tokenizer.bos_token
    totals = {
        "tokens": sum(len(row.encoded.ids) for row in kept),
        "trained_tokens": sum(row.learned for row in kept),
        "trained_characters": sum(row.characters for row in kept),
        "rows_with_bos": sum(row.bos == 1 for row in kept),
        "rows_with_more_bos": sum(row.bos > 1 for row in kept),
        "rows_without_end": sum(not row.ends for row in kept),
        "rows_unlike_server": sum(not row.as_server for row in kept),
        "rows_with_another_seam": sum(row.seam for row in kept),
        "rows_altered_by_template": sum(row.altered for row in kept),
    }
    report = TokenReport(
        rows=len(found),
        faults=Counter(row.fault for row in found if row.fault),
        totals=totals,
        longest=max((len(row.encoded.ids) for row in found), default=0),
        marks=sorted({mark for row in found for mark in row.marks}),
        documents=_documents(found),
        bos=bos,
        tokenizer_adds_bos=examiner.bos is not None and renderer.tokenizer.encode("x")[:1] == [examiner.bos],
        end_tokens=renderer.end_tokens,
    )
    return found, report


def write_report(report: TokenReport | None, output: Output) -> None:
    """Say what the rows are as tokens, and write tokens.json into the run folder."""
    if report is None:
        return
    for line in report.lines():
        say(line)
    output.write_json("tokens.json", report.as_json())


def _documents(found: Sequence[RowTokens]) -> list[dict[str, Any]]:
    """Documents that lost rows, those that lost most first."""
    rows = Counter((row.data, row.document) for row in found)
    lost: dict[tuple[str, str], Counter[Fault]] = {}
    for row in found:
        if row.fault:
            lost.setdefault((row.data, row.document), Counter())[row.fault] += 1
    named = sorted(lost.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return [
        {
            "document": document,
            **({"data": data} if data else {}),
            "rows": rows[data, document],
            **{fault.name: faults[fault] for fault in Fault},
        }
        for (data, document), faults in named
    ]


def require_sound(report: TokenReport, train: TrainConfig, kind: str = "rows") -> None:
    """Raise RefusedError where a budget of `train` is exceeded or prompts and answers are not what they must be."""
    problems = [*_over_budget(report, train, kind), *_broken(report, kind)]
    if not problems and not report.kept:
        problems = [f"none of {report.rows} {kind} is left; {report.summary()}"]
    if problems:
        raise RefusedError(problems)


def _over_budget(report: TokenReport, train: TrainConfig, kind: str) -> Iterator[str]:
    def over(fault: Fault, allowed: float) -> bool:
        return report.faults[fault] > allowed * report.rows

    long, marked, empty = (report.faults[fault] for fault in (Fault.too_long, Fault.marked, Fault.untrained))
    if over(Fault.too_long, train.max_over_length_fraction):
        yield (
            f"{long} of {report.rows} {kind} exceed train.max_tokens={train.max_tokens} (longest {report.longest}), in "
            f"{_named(report, Fault.too_long)}; raise train.max_tokens, shorten the documents, or allow it with "
            "train.max_over_length_fraction"
        )
    if over(Fault.marked, train.max_marked_fraction):
        yield (
            f"{marked} of {report.rows} {kind} hold marks of the chat template in their text "
            f"({', '.join(report.marks)}), in {_named(report, Fault.marked)}; the model would take them for its own "
            "turns: remove or respell them in the documents, or leave these rows out with train.max_marked_fraction"
        )
    if over(Fault.untrained, train.max_untrained_fraction):
        yield (
            f"{empty} of {report.rows} {kind} have an empty answer, so nothing but its end would be learned, in "
            f"{_named(report, Fault.untrained)}; correct the targets, or leave these rows out with "
            "train.max_untrained_fraction"
        )


def _broken(report: TokenReport, kind: str) -> Iterator[str]:
    """What is wrong with the base's tokenizer files, and so with every run on them."""
    found, cure = report.totals, "take the tokenizer files of the base's maker"
    if count := found["rows_with_more_bos"]:
        yield f"{count} of {report.kept} {kind} begin with more than one {report.bos}; {cure}, which write it once"
    if count := found["rows_without_end"]:
        yield (
            f"{count} of {report.kept} {kind} are not learned up to an end token ({', '.join(report.end_tokens)}), so "
            f"the model would not stop; {cure}, in which an end token is one token"
        )
    if count := found["rows_unlike_server"]:
        yield (
            f"{count} of {report.kept} prompts are other tokens than apply_chat_template makes of them, and so than a "
            f"server sends; {cure}"
        )


def _named(report: TokenReport, fault: Fault) -> str:
    """`document a, b and 3 more (make show-mask lists them)`."""
    documents = [item["document"] for item in report.documents if item[fault.name]]
    more = len(documents) - NAMED
    rest = f" and {more} more (`make show-mask CONF=…` lists them)" if more > 0 else ""
    return f"document{'s' if len(documents) > 1 else ''} {', '.join(documents[:NAMED])}{rest}"
