"""Windows of a long text, cut where the text itself pauses."""

import re
from collections.abc import Iterable, Sequence

from finetune.config.data import WindowConfig
from finetune.errors import ConfigError

Interval = tuple[int, int]

HEADING = r"(?:(?:ARTICLE|Article|SECTION|Section|EXHIBIT|Exhibit|SCHEDULE|Schedule)\s+\w|\d+(?:\.\d+)*[.)]?\s+[A-Z])"
PAUSES = [re.compile(pattern) for pattern in (rf"\n\n|\n(?={HEADING})", r"\n", r"[.;!?][\"')\]’”]*\s", r"\s")]
"""Where to cut, best first: sections and paragraphs, lines, sentences, words."""
ROOM = 3
"""A cut is looked for in the last third of what a window adds: enough to find a paragraph, at little more windows."""


def windows(text: str, settings: WindowConfig) -> list[Interval]:
    """The ranges of a text's windows, in order; together they cover it.

    None is longer than `max_chars`, and a passage of up to `overlap_chars` stands whole in at least one.
    Raises ConfigError where the overlap leaves a window nothing to add.
    """
    room = (settings.max_chars - settings.overlap_chars) // ROOM
    if room < 1:
        raise ConfigError(
            f"data.windows.overlap_chars={settings.overlap_chars} leaves too little of data.windows.max_chars="
            f"{settings.max_chars}; use at most {settings.max_chars // 2}"
        )
    found, start = [], 0
    while len(text) - start > settings.max_chars:
        end = _pause(text, start + settings.max_chars, room)
        found.append((start, end))
        start = _pause(text, end - settings.overlap_chars, room)
    return [*found, (start, len(text))]


def recoverable(
    spans: Iterable[Interval], ranges: Sequence[Interval]
) -> tuple[list[Interval], list[Interval]]:
    """The spans that stand whole in a window, and those that every window cuts."""
    spans = list(spans)
    whole = [span for span in spans if any(start <= span[0] and span[1] <= end for start, end in ranges)]
    kept = set(whole)
    cut = [span for span in spans if span not in kept]
    assert len(whole) + len(cut) == len(spans)  # noqa: S101  (a bug of ours, no user's mistake)
    return whole, cut


def _pause(text: str, latest: int, room: int) -> int:
    """The last position of the best kind in `room` characters up to `latest`."""
    for pattern in PAUSES:
        # a little further, so that what follows a pause can be seen
        ends = [match.end() for match in pattern.finditer(text, latest - room, latest + 40)]
        inside = [end for end in ends if latest - room < end <= latest]
        if inside:
            return inside[-1]
    return latest
