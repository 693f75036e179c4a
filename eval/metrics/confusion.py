"""Which labels are taken for which, of one task and arm."""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from eval.metrics.classification import label
from eval.predictions import Prediction

MOST_LABELS = 12
"""Rows of a matrix that can still be read."""
OTHER, UNKNOWN = "another label", "no label"
"""Columns behind the labels shown: known labels that are not shown, and answers that are no known label."""


def confusions(
    arms: Mapping[str, Sequence[Prediction]], first: str, vocabulary: AbstractSet[str]
) -> dict[str, dict[str, Any]]:
    """Each arm's matrix over the same labels: those on which the arm `first` errs most, then the most frequent.

    `labels` are the gold labels of the rows, `columns` what was answered, `counts` [labels, columns] rows;
    `label_count` is how many gold labels there are in all.
    """
    pairs = {
        arm: [(label(row["gold"]), label(row["prediction"])) for row in rows] for arm, rows in arms.items()
    }
    rows = Counter(gold for gold, _ in pairs[first])
    # both labels of a mistake are of interest: the one that was asked for, and the one that it was taken for
    errors = Counter(name for gold, said in pairs[first] if gold != said for name in (gold, said))
    shown = sorted(rows, key=lambda name: (-errors[name], -rows[name], name))[:MOST_LABELS]
    known = vocabulary | rows.keys()
    return {arm: _matrix(found, shown, known) | {"label_count": len(rows)} for arm, found in pairs.items()}


def _matrix(
    pairs: Sequence[tuple[str, str]], shown: Sequence[str], known: AbstractSet[str]
) -> dict[str, Any]:
    columns = [*shown, OTHER, UNKNOWN]
    places = {name: place for place, name in enumerate(shown)}
    counts = [[0] * len(columns) for _ in shown]
    for gold, said in pairs:
        if gold in places:
            place = places.get(said, len(shown) if said in known else len(shown) + 1)
            counts[places[gold]][place] += 1
    return {"labels": list(shown), "columns": columns, "counts": counts}
