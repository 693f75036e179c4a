"""Stacked areas, reliability diagrams and quantile boxes as inline SVG, in the look of `finetune.pages`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markupsafe import Markup

from finetune.pages import Scale


@dataclass(frozen=True)
class Area:
    """One layer of a stacked plot: a value for every moment, and its colour as one of STYLE's tone classes."""

    name: str
    tone: str
    values: Sequence[float]


@dataclass(frozen=True)
class Span:
    """A named stretch of the moments, `end` excluded."""

    name: str
    start: int
    end: int


def areas(
    scale: Scale, stack: Sequence[Area], spans: Sequence[Span], unit: str, limit: tuple[str, float] | None
) -> Markup:
    """Areas on top of each other from the first up, with ticks, named spans, the highest point, and a dashed limit."""
    down, moments = Scale(scale.high, scale.low), len(stack[0].values)
    edges = list(
        accumulate(
            (area.values for area in stack),
            lambda below, values: [low + value for low, value in zip(below, values, strict=True)],
            initial=[scale.low] * moments,
        )
    )
    bands = [
        Markup('<path class="area {}" d="{}"><title>{}</title></path>').format(
            area.tone, _outline(lower, upper, down), area.name
        )
        for area, (lower, upper) in zip(stack, pairwise(edges), strict=True)
    ]
    plot = Markup('<svg viewBox="0 0 {} 1000" height="100%" preserveAspectRatio="none">{}</svg>')
    drawn = [_ticks(scale, down), plot.format(moments, Markup("").join(bands)), _spans(spans, moments)]
    if limit:
        drawn.append(_limit(down, *limit))
    drawn.append(_highest(down, edges[-1], unit))
    label = f"stacked areas, at most {max(edges[-1]):.1f} {unit}, of " + ", ".join(
        item.name for item in stack
    )
    return Markup('<div class="areas"><svg height="340" role="img" aria-label="{}">{}</svg></div>').format(
        label, Markup("").join(drawn)
    )


def _outline(lower: Sequence[float], upper: Sequence[float], down: Scale) -> str:
    """The steps of `upper` from left to right and those of `lower` back, a unit a moment, 1000 for the height."""

    def heights(values: Sequence[float]) -> list[str]:
        return [f"{10 * float(down.place(value)[:-1]):g}" for value in values]

    top, floor, end = heights(upper), heights(lower), len(upper)
    there = [f"H{x}V{top[x]}" for x in range(1, end) if top[x] != top[x - 1]]
    back = [f"H{x}V{floor[x - 1]}" for x in range(end - 1, 0, -1) if floor[x] != floor[x - 1]]
    return f"M0 {top[0]}{''.join(there)}H{end}V{floor[-1]}{''.join(back)}H0Z"


def _ticks(scale: Scale, down: Scale) -> Markup:
    mark = Markup(
        '<line x1="0" x2="100%" y1="{0}" y2="{0}" class="grid"/>'
        '<text x="-8" y="{0}" dy="4" text-anchor="end">{1:g}</text>'
    )
    return Markup("").join(mark.format(down.place(tick), tick) for tick in scale.ticks())


def _spans(spans: Sequence[Span], moments: int) -> Markup:
    """Names under the axis; that of a narrow span stands a line lower, so that its neighbours do not meet it."""
    along = Scale(0, moments)
    line = Markup('<line x1="{0}" x2="{0}" y1="0" y2="100%" class="cut"/>')
    text = Markup('<text x="{}" y="100%" dy="{}" text-anchor="middle">{}</text>')
    return Markup("").join(
        (line.format(along.place(span.start)) if span.start else Markup(""))
        + text.format(
            along.place((span.start + span.end) / 2),
            16 if span.end - span.start > moments / 6 else 31,
            span.name,
        )
        for span in spans
    )


def _limit(down: Scale, name: str, value: float) -> Markup:
    return Markup(
        '<line x1="0" x2="100%" y1="{0}" y2="{0}" class="under"/>'
        '<line x1="0" x2="100%" y1="{0}" y2="{0}" class="limit"/>'
        '<text x="4" y="{0}" dy="-6" class="halo">{1}</text>'
    ).format(down.place(value), name)


def _highest(down: Scale, totals: Sequence[float], unit: str) -> Markup:
    at = max(range(len(totals)), key=totals.__getitem__)
    share = (at + 0.5) / len(totals)
    anchor = "start" if share < 0.2 else "end" if share > 0.8 else "middle"
    return Markup(
        '<text x="{:.2f}%" y="{}" dy="-7" text-anchor="{}" class="halo">peak {:.1f} {}</text>'
    ).format(100 * share, down.place(totals[at]), anchor, totals[at], unit)


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability(bins: Sequence[Mapping[str, float]]) -> Markup:
    """Share right over mean confidence, a dot a bin, its distance from the diagonal drawn; for a padded `.square`."""
    down = Scale(1.0, 0.0)
    across = Scale(0.0, 1.0)
    line = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="{}"/>')
    text = Markup('<text x="{}" y="{}" dx="{}" dy="{}" text-anchor="{}">{:.0f}</text>')
    drawn = [line.format(across.place(at), across.place(at), "0", "100%", "grid") for at in SHARES]
    drawn += [line.format("0", "100%", down.place(at), down.place(at), "grid") for at in SHARES]
    drawn += [text.format(across.place(at), "100%", 0, 18, "middle", 100 * at) for at in SHARES]
    drawn += [text.format("0", down.place(at), -8, 4, "end", 100 * at) for at in SHARES]
    drawn.append(line.format("0", "100%", "100%", "0", "goal"))
    for item in bins:
        x, y = across.place(item["confidence"]), down.place(item["accuracy"])
        drawn.append(line.format(x, x, down.place(item["confidence"]), y, "gap"))
        drawn.append(
            Markup('<circle cx="{}" cy="{}" r="5.5" class="dot"><title>{}</title></circle>').format(
                x,
                y,
                f"{item['n']} rows, sure to {100 * item['confidence']:.0f} %, right in {100 * item['accuracy']:.0f} %",
            )
        )
    label = f"{len(bins)} bins of confidence: the share right over the mean confidence of each"
    return Markup('<svg height="100%" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(drawn)
    )


def box(scale: Scale, quantiles: Sequence[float], unit: str) -> Markup:
    """Five quantiles as a line from the first to the last, a bar over the middle half and a mark at the median."""
    low, start, middle, end, high = map(scale.place, quantiles)
    line = Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{3}" class="{4}"/>')
    drawn = [line.format(scale.place(tick), scale.place(tick), 0, 26, "grid") for tick in scale.ticks()]
    drawn.append(line.format(low, high, 13, 13, "whisker"))
    drawn.append(line.format(start, end, 13, 13, "bar"))
    drawn.append(line.format(middle, middle, 5, 21, "median"))
    label = f"median {quantiles[2]:g} {unit}, half of all from {quantiles[1]:g} to {quantiles[3]:g}"
    return Markup('<svg height="26" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(drawn)
    )


def number_axis(scale: Scale) -> Markup:
    """Plain numbers under a plot."""
    text = Markup('<text x="{}" y="12" text-anchor="middle">{:,g}</text>')
    marks = [text.format(scale.place(tick), tick) for tick in scale.ticks()]
    return Markup('<svg height="16" aria-hidden="true">{}</svg>').format(Markup("").join(marks))
