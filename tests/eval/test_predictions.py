"""Two arms are compared only on the same rows."""

from typing import Any

import pytest

from eval.predictions import pair
from finetune.errors import DataError


def test_arms_are_lined_up_by_id(make: Any) -> None:
    a, b = make(["x", "y"], ["x", "x"], ["g", "h"], "base"), make(["x", "y"], ["y", "y"], ["g", "h"])
    pairs = pair(a, b[::-1])
    assert [item["id"] for item in pairs.b] == ["row0", "row1"]
    assert pairs.groups.tolist() == [0, 1]


def test_missing_and_doubled_rows_are_refused(make: Any) -> None:
    a, b = make(["x", "y"], ["x", "x"], arm="base"), make(["x", "y"], ["y", "y"])
    with pytest.raises(DataError, match="predictions_adapter.jsonl lacks 1 .* row1"):
        pair(a, b[:1])
    with pytest.raises(DataError, match="predictions_base.jsonl lacks 1 .* row1"):
        pair(a[:1], b)
    with pytest.raises(DataError, match="predictions_adapter.jsonl holds 1 doubled ids, the first is row0"):
        pair(a, [*b, b[0]])


def test_other_gold_or_group_is_refused_without_its_text(make: Any) -> None:
    with pytest.raises(DataError, match="id row0 has another 'gold' in base than in adapter") as caught:
        pair(make(["secret"], ["x"], arm="base"), make(["other"], ["x"]))
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match="another 'group'"):
        pair(make(["x"], ["x"], ["g"], "base"), make(["x"], ["x"], ["h"]))
