"""The sheet in its two forms, a table for a spreadsheet and a form for a browser, and the key that tells the sides."""

import csv
import io
from pathlib import Path
from typing import Any

from eval.experts.cells import fits
from eval.experts.drawing import Drawn, Item
from eval.experts.returned import CHOICES, COLUMNS
from finetune.artifacts import Output
from finetune.pages import render

TABLE, FORM, KEY = "sheet.csv", "sheet.html", "key.json"
TEMPLATE = Path(__file__).with_name("sheet.html.jinja")
BOM = "\ufeff"
"""Without it Excel takes UTF-8 for the machine's own code page."""


def write_sheet(output: Output, drawn: Drawn, about: dict[str, Any]) -> None:
    """Write both forms and the key; `about` is what the key says of report, task and arms."""
    sheet = output.folder.name
    output.write_text(TABLE, BOM + table(sheet, drawn.items))
    output.write_text(FORM, form(sheet, drawn.items))
    secrets = [item.secret(number) for number, item in enumerate(drawn.items, 1)]
    output.write_json(
        KEY, {"sheet": sheet, **about, "rows": drawn.rows, "differing": drawn.differing, "items": secrets}
    )
    output.counts = {
        "rows": drawn.rows,
        "differing": drawn.differing,
        "drawn": len(drawn.items),
        "shortened": shortened_items(drawn.items),
    }


def table(sheet: str, items: list[Item]) -> str:
    """The table; `better` and `comment` are for the expert to fill."""
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, item in enumerate(items, 1):
        writer.writerow([name_of(sheet, number), *item.cells(), "", ""])
    return stream.getvalue()


def form(sheet: str, items: list[Item]) -> str:
    """A page that stands alone: it asks for each item's better answer and saves what was chosen as the same table."""
    shown = [
        {
            "name": name_of(sheet, number),
            "prompt": item.prompt,
            "left": item.left,
            "right": item.right,
            "cells": item.cells(),
        }
        for number, item in enumerate(items, 1)
    ]
    return render(TEMPLATE, sheet=sheet, items=shown, choices=CHOICES, columns=COLUMNS)


def name_of(sheet: str, number: int) -> str:
    """An item's name, which says of which sheet it is."""
    return f"{sheet}-{number:02d}"


def shortened_items(items: list[Item]) -> int:
    """How many items have a text that no spreadsheet cell holds: whole in the form, its two ends in the table."""
    return sum(not all(map(fits, (item.prompt, item.left, item.right))) for item in items)
