"""Sheet and score in a few lines for the person at the terminal: no text of any row."""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.experts.sheet import FORM, KEY, TABLE
from finetune.artifacts import Artifact


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """review.json in a few lines."""
    yield (
        f"{found['judged']} of {found['drawn']} items judged by {len(found['reviewers'])}; drawn from the "
        f"{found['differing']} of {found['rows']} rows that {found['a']} and {found['b']} answer differently"
    )
    choices = ", ".join(f"{name} {count}" for name, count in found["choices"].items())
    yield f"choices: {choices}; rows won {found['wins']}, lost {found['losses']}, tied {found['ties']}"
    rate, item = found["win_rate"], found["comparison"]
    yield (
        f"{found['verdict']}: win rate of {found['b']}, ties as half, {100 * rate['value']:.1f} % "
        f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], p {item['p']:.2g} in {item['n_groups']} groups; "
        f"exact sign test of rows p {found['decided']['p']:.2g}"
    )
    gain = found["gain_over_all_rows"]
    yield (
        f"over all rows, alike ones as ties: {found['b']} preferred on {100 * gain['value']:+.1f} % of them net "
        f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    )
    if found["agreement"]:
        names = ("same", "cohen_kappa", "krippendorff_alpha")
        values = ((name.replace("_", " "), found["agreement"][name]) for name in names)
        shown = ", ".join(f"{name} {value:.2f}" for name, value in values if value is not None)
        yield f"reviewers on {found['agreement']['items']} shared items: {shown or 'no agreement can be stated'}"


def told_sheet(artifact: Artifact, name: str) -> Iterator[str]:
    """What was drawn, and how it goes on."""
    counts = artifact.manifest.counts
    yield (
        f"{counts['drawn']} items, drawn from the {counts['differing']} of {counts['rows']} rows that are answered "
        "differently"
    )
    if counts["shortened"]:
        yield f"{counts['shortened']} have a text too long for a cell: whole in {FORM}, its two ends in {TABLE}"
    rate = counts["detectable_win_rate"]
    yield (
        "too few groups for any verdict; raise review.rows, or enlarge the test set"
        if rate is None
        else f"a win rate of {100 * rate:.0f} % would be found 4 times in 5, were 3 of 10 rows ties"
    )
    yield (
        f"private text: give experts {artifact.path(FORM)} (opens in a browser) or {TABLE}, never {KEY}; then "
        f"make review CONF={name} FILE=<filled sheets>"
    )
