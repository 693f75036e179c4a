"""Which targets may be learned: the closed set, no contradictions, enough rows of each."""

from collections import Counter
from collections.abc import Sequence

from data_prep.items import Item, held, unit_of
from finetune.config.data import RowForm
from finetune.errors import ConfigError, DataError

CONTRADICTION = "equal text, different targets"
NOT_ASKED = "label outside data.only_labels"


def require_known(target: str, labels: Sequence[str] | None, where: str) -> None:
    """Raise DataError where the closed set is configured and the target is not in it."""
    if labels is not None and target not in labels:
        raise DataError(
            f"{where}, string of length {len(target)}, is not one of the {len(labels)} data.labels; "
            "correct it, or add it to data.labels"
        )


def drop_contradictions(items: Sequence[Item], form: RowForm) -> None:
    """Drop the texts that stand under several targets: nobody can tell which one is right."""
    answers: dict[bytes, bytes] = {}
    torn: set[bytes] = set()
    for item in items:
        if not item.reason and answers.setdefault(item.key, item.answers) != item.answers:
            torn.add(item.key)
    units = {unit_of(item, form) for item in items if item.key in torn}
    for item in items:
        if not item.reason and unit_of(item, form) in units:
            item.drop(CONTRADICTION)


def drop_others(items: Sequence[Item], only: Sequence[str]) -> None:
    """Leave out the rows with a target that is not asked for. Raises ConfigError where one asked for has no row."""
    known = {label for item in items for label in item.labels}
    for label in only:
        if held(label) not in known:
            raise ConfigError(f"data.only_labels has {label!r}, which no row has; correct it, or remove it")
    wanted = set(map(held, only))
    for item in items:
        if not item.reason and not wanted.issuperset(item.labels):
            item.drop(NOT_ASKED, lost=False)


def drop_rare(items: Sequence[Item], min_rows: int, where: str = "", lost: bool = True) -> None:
    """Drop the rows with a target that has fewer rows than can be learned and measured."""
    rows = Counter(label for item in items if not item.reason for label in item.labels)
    for item in items:
        if not item.reason and any(rows[label] < min_rows for label in item.labels):
            item.drop(f"label with fewer than {min_rows} rows{where}", lost)
