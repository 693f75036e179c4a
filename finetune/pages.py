"""HTML pages that stand alone: one look, light and dark, plots as inline SVG, no request, no script but for sorting.

Plots use percent coordinates, so that they stretch with the page while text keeps its size.
"""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

MINUS = "\N{MINUS SIGN}"

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SORT = Path(__file__).with_name("page_sort.js").read_text(encoding="utf-8")
"""Makes the tables of class `sort` sortable by their headers; without it they stand as they are."""


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` across the full width of a plot."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Where a value stands, as an SVG percentage; values beyond the axis stand at its end."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(0.0, share), 1.0):.2f}%"

    def ticks(self) -> list[float]:
        """About five round values from end to end."""
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def scale_over(values: Sequence[float]) -> Scale:
    """A scale with round ends that holds zero and all the values."""
    low, high = min(0.0, *values), max(0.0, *values)
    step = _step(high - low or 1.0)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step or step)


def render(template: Path, **values: object) -> str:
    """The page of a Jinja template, escaped.

    Templates find head or style, sort_script, plots and number formats by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "p_value": p_value}
    environment.globals |= {
        "head": _head(),
        "style": Markup(STYLE),  # noqa: S704  (our own constant)
        "sort_script": Markup(f"<script>{SORT}</script>"),  # noqa: S704  (our own constant)
        "axis": axis,
        "interval": interval,
        "change": change,
    }
    return environment.get_template(template.name).render(**values)


def _head() -> "Markup":
    """What every page's head begins with; the policy lets the browser fetch nothing and run our script alone."""
    from markupsafe import Markup

    allowed = f"style-src {_hash(STYLE)}; script-src {_hash(SORT)}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return Markup(  # noqa: S704  (our own constants)
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{STYLE}</style>'
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def percent(share: float) -> str:
    """0.5124 as `51.2 %`, which no line break parts."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """0.5124 as `+51.2`, a difference in percentage points with a real minus sign."""
    text = f"{100 * share:+.1f}"
    return text.replace("-", MINUS) if float(text) else "0.0"


def p_value(value: float) -> str:
    """Three digits, or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float) -> str:
    """70553706496 as `70.6 billion`."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:,.1f} {word}"
    return f"{value:,.0f}"


def amount(value: float) -> str:
    """Money: 1,234.50, and small sums with two digits that count, 0.0042."""
    if value == 0 or abs(value) >= 0.1:
        return f"{value:,.2f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def duration(hours: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    if hours >= 72:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.0f} minutes" if hours * 60 >= 1.5 else f"{hours * 3600:.0f} seconds"


def axis(scale: Scale) -> "Markup":
    """The numbers under a plot, in percentage points."""
    from markupsafe import Markup

    marks = [
        Markup('<text x="{}" y="12" text-anchor="middle">{}</text>').format(
            scale.place(tick), _tick(tick, scale)
        )
        for tick in scale.ticks()
    ]
    return Markup('<svg height="16" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def interval(
    scale: Scale, low: float, value: float, high: float, goal: float | None = None, limit: float | None = None
) -> "Markup":
    """A dot with its interval in the text colour, over the scale's grid; `goal` and `limit` add dashed lines."""
    from markupsafe import Markup

    line = Markup('<line x1="{0}" x2="{0}" y1="0" y2="26" class="{1}"/>')
    drawn = [line.format(scale.place(tick), "grid") for tick in scale.ticks()]
    drawn += [line.format(scale.place(0.0), "zero")] if scale.low <= 0 else []
    drawn += [line.format(scale.place(goal), "goal")] if goal else []
    drawn += [line.format(scale.place(limit), "limit")] if limit is not None else []
    drawn.append(
        Markup(
            '<line x1="{}" x2="{}" y1="13" y2="13" class="range"/>'
            '<circle cx="{}" cy="13" r="5.5" class="dot"/>'
        ).format(scale.place(low), scale.place(high), scale.place(value))
    )
    label = f"{percent(value)}, from {percent(low)} to {percent(high)}"
    return Markup('<svg height="26" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(drawn)
    )


def change(before: float, after: float) -> "Markup":
    """Two shares between 0 and 1 on one line: a ring for before, a dot for after."""
    from markupsafe import Markup

    scale = Scale(0.0, 1.0)
    return Markup(
        '<svg height="16" role="img" aria-label="{label}"><line x1="0" x2="100%" y1="8" y2="8" class="grid"/>'
        '<line x1="{a}" x2="{b}" y1="8" y2="8" class="range"/><circle cx="{a}" cy="8" r="4.5" class="ring"/>'
        '<circle cx="{b}" cy="8" r="5" class="dot"/></svg>'
    ).format(label=f"from {percent(before)} to {percent(after)}", a=scale.place(before), b=scale.place(after))


def _step(span: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) that cuts a span into four to eight parts."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= span / 4 * 1.0001))


def _tick(value: float, scale: Scale) -> str:
    digits = 0 if _step(scale.high - scale.low) >= 0.0099 else 1
    text = f"{100 * value:.{digits}f}" if scale.low >= 0 else f"{100 * value:+.{digits}f}"
    return text.replace("-", MINUS) if round(value, 6) else "0"
