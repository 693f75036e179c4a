"""The plan for people: a table in the terminal, and plan.html with the memory of the step as a plot."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune import pages
from finetune.pages import Scale, scale_over
from finetune.plan import choices, sections
from finetune.plan.tables import Plan, Section, short
from finetune.plots import Area, Span, areas

Timeline = Sequence[Mapping[str, Any]]
"""Samples of the step in order: its `phase`, and bytes by category under `categories`."""

TEMPLATE = Path(__file__).with_name("plan.html.jinja")
COLUMNS = 100
GIB = 2**30
BESIDE = "beside PyTorch"
SMALL = "smaller ones"
TONES = {
    BESIDE: "tone-0",
    "quantised weights": "tone-1",
    "quantisation scales": "tone-13",
    "experts (bf16)": "tone-14",
    "embeddings and head": "tone-2",
    "other weights": "tone-3",
    "gathered by FSDP": "tone-11",
    "LoRA weights": "tone-4",
    "optimizer": "tone-5",
    "gradients": "tone-6",
    SMALL: "tone-12",
    "activations": "tone-7",
    "dequantised weights": "tone-8",
    "loss head": "tone-9",
    "working set": "tone-10",
}
"""Categories from the bottom of the plot up, each in its colour: Okabe and Ito's for colour-blind readers, and seven
more that stay apart from those and from each other without one kind of cone too."""
SMALL_SHARE = 0.005
"""Of the plot's height: what stays below it all through the step is drawn as one area."""
FAR_LIMIT = 2.0
"""A limit this many times above the peak would flatten the plot; it is named under it instead."""


def table(plan: Plan) -> str:
    """The whole plan as plain text of at most 100 columns, verdict first."""
    lines = summary(plan)
    for section in sections.sections(plan).values():
        lines += ["", *(part for line in _text(section) for part in _wrapped(line))]
    return "\n".join(lines)


def summary(plan: Plan) -> list[str]:
    """Verdict, speed, what a search found and what to beware of, as lines of at most 100 columns; commands whole."""
    lines = [f"{plan['verdict']}: {sections.headline(plan)}", sections.outlook(plan), choices.found(plan)]
    lines = [part for line in lines if line for part in _wrapped(line)]
    if command := choices.command(plan):
        lines += [f"  {command}"]
    return lines + [part for line in plan["warnings"] for part in _wrapped(f"warning: {line}")]


def page(plan: Plan, timeline: Timeline) -> str:
    """plan.html: the plan, and the memory of the step over its allocations."""
    samples = _step_only(timeline)
    return pages.render(
        TEMPLATE,
        plan=plan,
        headline=sections.headline(plan),
        outlook=sections.outlook(plan),
        found=choices.found(plan),
        facts=sections.facts(plan),
        sections=sections.sections(plan),
        command=choices.command(plan),
        tones=TONES,
        **(_plot(plan, samples) if samples else {"plot": None}),
    )


def _text(section: Section) -> Iterator[str]:
    rows = [row for row in (section.head, *section.rows, *section.foot) if row]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    yield section.title + (f" ({section.source})" if section.source else "")
    for row in rows:
        cells = zip(row, section.align, widths, strict=True)
        yield "  " + "   ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip()


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, COLUMNS, subsequent_indent="    ") or [""]


def _step_only(timeline: Timeline) -> list[tuple[str, Mapping[str, int]]]:
    """Phase and bytes from the first of the forward pass to the last of the backward pass.

    Before it the weights are made, after it they are let go; what falls between two phases belongs to the earlier one.
    """
    phases = [str(sample["phase"]).split(",")[0] for sample in timeline]
    inside = [index for index, phase in enumerate(phases) if phase != "weights"]
    found: list[tuple[str, Mapping[str, int]]] = []
    for index in range(inside[0], inside[-1] + 1) if inside else ():
        phase = phases[index]
        if found and phase in ("weights", "forward"):  # released after the loss: there is one forward pass
            phase = found[-1][0]
        found.append((phase, timeline[index]["categories"]))
    return found


def _plot(plan: Plan, samples: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, Any]:
    outside = sections.on_device(plan) - plan["peak_allocated_gib"]
    totals = [outside + sum(bytes_.values()) / GIB for _, bytes_ in samples]
    limit = plan["device_gib"]["limit"]
    near = limit is not None and limit <= FAR_LIMIT * max(totals)
    scale = scale_over([max(totals), limit if near else 0.0])
    stack = _stack(samples, outside, scale)
    line = (f"limit {short(limit)} GiB", limit) if near else None
    return {
        "plot": areas(scale, stack, _spans(samples), "GiB", line),
        "legend": [(area.name, area.tone) for area in reversed(stack)],
        "far_limit": None if near else limit,
        "outside": outside,
    }


def _stack(samples: Sequence[tuple[str, Mapping[str, int]]], outside: float, scale: Scale) -> list[Area]:
    """From the bottom up; the small ones, and those that no colour is known for, together."""
    names = {name for _, bytes_ in samples for name in bytes_}
    columns = {name: [bytes_.get(name, 0) / GIB for _, bytes_ in samples] for name in names}
    columns[BESIDE] = [outside] * len(samples)
    large = {name for name in TONES if max(columns.get(name, [0.0])) > SMALL_SHARE * scale.high}
    rest = [values for name, values in columns.items() if name not in large]
    columns[SMALL] = [sum(values) for values in zip(*rest, strict=True)] or [0.0] * len(samples)
    return [
        Area(name, tone, columns[name])
        for name, tone in TONES.items()
        if name in {*large, SMALL} and any(columns[name])
    ]


def _spans(samples: Sequence[tuple[str, Mapping[str, int]]]) -> list[Span]:
    found, start = [], 0
    for phase, group in groupby(phase for phase, _ in samples):
        end = start + len(list(group))
        found.append(Span(phase, start, end))
        start = end
    return found
