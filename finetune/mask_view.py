"""Rows for a person to read: what is learned of them, with special tokens visible; and the report as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.chat import IGNORE, Encoded, Renderer
from finetune.config.schema import ShowConfig
from finetune.console import shortened, visible
from finetune.errors import ConfigError
from finetune.row_tokens import Fault, RowTokens
from finetune.token_report import TokenReport

OPEN, CLOSE = "⟦", "⟧"
"""Around what is learned, where there are no colours."""
STYLES = {
    (False, False): "dim",
    (False, True): "magenta",
    (True, False): "bold green",
    (True, True): "bold magenta",
}
"""By (learned, special token)."""


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind, as text."""

    text: str
    learned: bool
    special: bool


def chosen(rows: Sequence[RowTokens], show: ShowConfig) -> list[RowTokens]:
    """The rows to show: those of `show.ids`, else the first `show.rows`. Raises ConfigError for an unknown id."""
    known = {row.id: row for row in rows}
    unknown = [id_ for id_ in show.ids if id_ not in known]
    if unknown:
        raise ConfigError(
            [f"show.ids: {id_} is no training row; take an id of train.jsonl" for id_ in unknown]
        )
    return [known[id_] for id_ in show.ids] or list(rows[: show.rows])


def spans(encoded: Encoded, renderer: Renderer) -> Iterator[Span]:
    """The row as it is trained, decoded from its ids; every special token is a span of its own kind."""

    def kind(pair: tuple[int, int]) -> tuple[bool, bool]:
        return pair[1] != IGNORE, pair[0] in renderer.marks

    for (learned, special), run in groupby(zip(encoded.ids, encoded.labels, strict=True), key=kind):
        yield Span(renderer.decode([id_ for id_, _ in run]), learned, special)


def heading(row: RowTokens, renderer: Renderer) -> str:
    """Counts and findings of one row in a line."""
    bos = renderer.tokenizer.bos_token
    begin = f"begins with {bos} {('not', 'once')[row.bos] if row.bos < 2 else f'{row.bos} times'}"  # noqa: PLR2004
    end = "ends with a learned end token" if row.ends else "ENDS WITHOUT A LEARNED END TOKEN"
    return "; ".join(
        [
            f"row {row.id}, document {row.document}" + (f", {row.data}" if row.data else ""),
            f"{len(row.encoded.ids)} tokens, {row.learned} learned",
            begin if bos else "the tokenizer has no beginning token",
            end,
            "the prompt is what a server sends" if row.as_server else "A SERVER SENDS ANOTHER PROMPT",
            *(["one text would be cut into other tokens where the answer begins"] if row.seam else []),
            *([f"LEFT OUT: {row.fault.value}"] if row.fault else []),
        ]
    )


def show_rows(rows: Sequence[RowTokens], renderer: Renderer, show: ShowConfig, console: Console) -> None:
    """Print each row: in colours where the terminal has them, else with what is learned in ⟦ ⟧."""
    colourless = console.color_system is None or console.no_color
    for row in rows:
        console.print(Text(heading(row, renderer), style="bold"))
        text = Text()
        for learned, run in groupby(spans(row.encoded, renderer), key=lambda span: span.learned):
            bracketed = learned and colourless
            text.append(OPEN if bracketed else "")
            for span in run:
                text.append(
                    shortened(visible(span.text), show.characters), STYLES[span.learned, span.special]
                )
            text.append(CLOSE if bracketed else "")
        console.print(text, "\n", sep="")


def show_report(report: TokenReport, console: Console) -> None:
    """Print the table of all rows, the documents that lost some, and the notes."""
    table = Table(title="All training rows as tokens", title_justify="left", show_header=False)
    for key, value in report.figures().items():
        table.add_row(key.replace("_", " "), f"{value:,}")
    console.print(table)
    if report.documents:
        lost = Table(title="Documents that lost rows", title_justify="left")
        for name in ("document", "data set", "rows", *(fault.name.replace("_", " ") for fault in Fault)):
            lost.add_column(name, overflow="fold")
        for item in report.documents:
            cells = [
                item["document"],
                item.get("data", ""),
                item["rows"],
                *(item[fault.name] for fault in Fault),
            ]
            lost.add_row(*map(str, cells))
        console.print(lost)
    for line in report.notes():
        console.print(Text(f"note: {line}"))
