"""HTML pages that stand alone: one look, light and dark, plots as inline SVG, no script, no request.

Plots use percent coordinates, so that they stretch with the page while text keeps its size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

MINUS = "\N{MINUS SIGN}"

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --panel: #ffffff; --ink: #1b1d21; --muted: #62666e;
  --line: #dddcd6; --faint: #efeee9; --accent: #2a5bd7; --plain: #8b8f97;
  --good: #14703f; --good-soft: #e3f3e9; --bad: #b3261e; --bad-soft: #fbe7e5; --unsure: #8a5a00;
  --unsure-soft: #faf0d9; --tone-0: #d3d2cb; --tone-1: #0072b2; --tone-2: #56b4e9; --tone-3: #4a4f57;
  --tone-4: #cc79a7; --tone-5: #009e73; --tone-6: #8d5ffa; --tone-7: #e69f00; --tone-8: #f0e442;
  --tone-9: #332288; --tone-10: #d55e00; --tone-11: #8a3a22; --tone-12: var(--ink);
  --tone-13: #7fbf7f; --tone-14: #0b4f6c; }
@media (prefers-color-scheme: dark) {
  :root { --page: #131417; --panel: #1c1e22; --ink: #eceae5; --muted: #a0a4ac; --line: #34373d;
  --faint: #26282d;
    --accent: #7aa2ff; --plain: #8f949d; --good: #6fd39b; --good-soft: #17301f; --bad: #ff9a90;
    --bad-soft: #3a1b19;
    --unsure: #f0c46a; --unsure-soft: #352a12; --tone-0: #4a4d54; --tone-1: #2f78d0; --tone-2: #7cd0ff; --tone-3: #737b83;
    --tone-6: #8a0ecb; --tone-9: #b79cff; --tone-11: #92401b; --tone-14: #1f8a8a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0 0 1rem; }
h1 span { color: var(--muted); font-weight: 400; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; font-weight: 600; } h3:first-child { margin-top: 0; }
p { margin: .4rem 0 .8rem; max-width: 46rem; } .note { color: var(--muted); font-size: .9rem; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.1rem; }
.wide { overflow-x: auto; padding: .25rem .25rem; } .wide tbody th { min-width: 9rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 500; color: var(--muted); font-size: .82rem; vertical-align: bottom; }
th, td { padding: .5rem .8rem; border-bottom: 1px solid var(--faint); vertical-align: middle; }
tbody tr:last-child > *, tfoot tr > * { border-bottom: 0; }
.sum tr:first-child > * { border-top: 1px solid var(--plain); }
.name { white-space: nowrap; color: var(--muted); }
tbody th, .sum th { color: var(--ink); font-size: .92rem; font-weight: 600; vertical-align: middle; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.small { display: block; color: var(--muted); font-size: .8rem; font-weight: 400; }
.plot { min-width: 7rem; width: 34%; }
.mono { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85em;
  overflow-wrap: anywhere; }
.banner { border-radius: 12px; padding: 1.25rem 1.4rem 1.1rem; border: 1px solid; }
.banner strong { display: block; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em; }
.banner p { color: var(--ink); font-size: 1.05rem; margin: .45rem 0 0; max-width: none; }
.better { color: var(--good); } .worse { color: var(--bad); } .inconclusive { color: var(--unsure); }
.banner.better { background: var(--good-soft); } .banner.worse { background: var(--bad-soft); }
.banner.inconclusive { background: var(--unsure-soft); }
.facts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .7rem; margin: .8rem 0 0; }
.facts div { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: .6rem .85rem .65rem; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.forest { display: grid; grid-template-columns: 11rem 1fr 14.5rem; column-gap: 1.25rem;
  align-items: center; font-size: .92rem; }
.forest > div { padding: .3rem 0; } .forest .number { text-align: left; white-space: normal; }
svg { display: block; width: 100%; overflow: visible; } svg text { fill: var(--muted); font-size: 12px; }
.grid { stroke: var(--faint); } .zero { stroke: var(--plain); }
.goal { stroke: var(--plain); stroke-dasharray: 3 3; }
.range { stroke-width: 3; stroke-linecap: round; stroke: currentColor; } .dot { fill: currentColor; }
.ring { fill: var(--panel); stroke: var(--plain); stroke-width: 2.5; }
.way { stroke: var(--line); stroke-width: 2; }
.muted { color: var(--muted); } .accent { color: var(--accent); } .plain { color: var(--plain); }
.key { display: inline-flex; align-items: center; gap: .35rem; margin-right: 1rem; }
.key svg, th svg.swatch { width: 14px; } svg.swatch { display: inline-block; vertical-align: -2px; }
.areas { padding: 1.5rem .25rem 2.3rem 2.1rem; } .areas svg svg { overflow: hidden; }
.areas + .note { margin-bottom: 0; } .area { fill: currentColor; }
.cut { stroke: var(--ink); stroke-opacity: .35; }
.under { stroke: var(--panel); stroke-width: 5; stroke-opacity: .75; }
.limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; }
svg text.halo { fill: var(--ink); paint-order: stroke; stroke: var(--panel); stroke-width: 5px; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; align-items: start; }
ul { padding-left: 1.2rem; max-width: 46rem; } li { margin: .35rem 0; }
@media (max-width: 40rem) {
  main { padding: 1.1rem .8rem 3rem; } th, td { padding: .45rem .5rem; }
  .facts { grid-template-columns: 1fr 1fr; } .banner strong { font-size: 1.6rem; }
  .columns { grid-template-columns: 1fr; }
  .forest { grid-template-columns: 1fr; } .forest > div { padding: 0; }
  .forest .number { padding-bottom: .9rem; }
  .optional { display: none; } }
@media print { body { background: none; } .panel, .banner, .facts div { break-inside: avoid; } }
"""
STYLE += "".join(f".tone-{number} {{ color: var(--tone-{number}); }}\n" for number in range(15))


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
    """The page of a Jinja template, escaped; templates find STYLE, plots and number formats by name."""
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
        "style": Markup(STYLE),  # noqa: S704  (our own constant)
        "axis": axis,
        "interval": interval,
        "change": change,
    }
    return environment.get_template(template.name).render(**values)


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


def interval(scale: Scale, low: float, value: float, high: float, goal: float | None = None) -> "Markup":
    """A dot with its interval in the text colour, over the scale's grid; `goal` adds a dashed line."""
    from markupsafe import Markup

    line = Markup('<line x1="{0}" x2="{0}" y1="0" y2="26" class="{1}"/>')
    drawn = [line.format(scale.place(tick), "grid") for tick in scale.ticks()]
    drawn += [line.format(scale.place(0.0), "zero")] if scale.low <= 0 else []
    drawn += [line.format(scale.place(goal), "goal")] if goal else []
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
