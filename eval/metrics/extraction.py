"""Metrics of structured answers: whether they parse, keep to the schema and its vocabulary, and then what they say."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from eval.metrics import label_counts
from eval.metrics.label_counts import Labelled
from eval.metrics.measure import ArmStatistic, Measure, Scope, mean
from eval.predictions import Prediction
from finetune.artifacts.hashing import canonical
from finetune.chat import Target

VOCABULARY = ("enum", "const")
"""Keywords of JSON Schema that list the allowed values."""
MICRO = "all values pooled: a value counts under its field, in lists as often as it stands there"
MACRO = "over the fields that occur in a gold answer of the test set, each counting the same"


def parsed(text: str) -> str | None:
    """The one JSON text of an answer's value; None where it is no JSON. NaN and Infinity are none."""
    try:
        return canonical(_even(json.loads(text, parse_constant=_refuse)))
    except (ValueError, RecursionError):
        return None


def measures(schema: Mapping[str, Any] | bool) -> Mapping[str, Measure]:
    """Every metric by its name."""
    from jsonschema.validators import validator_for
    from referencing import Registry

    # an empty registry: without it jsonschema would fetch what a schema refers to
    validator = validator_for(schema)(schema, registry=Registry())
    keywords = partial(_broken, validator)
    return {
        "exact_match": Measure(label_counts.EXACT, lambda rows, scope: mean(rights(rows), scope.groups)),
        "micro_f1": label_counts.micro_f1(fields, MICRO),
        "macro_f1": label_counts.macro_f1(fields, MACRO),
        "parse_rate": label_counts.parse_rate("over all rows: answers that are JSON"),
        "schema_rate": _rate(
            "over all rows: answers that keep to the whole schema", lambda row: not keywords(row)
        ),
        "vocabulary_rate": Measure(
            "over all rows: answers that parse and give no value outside a list of allowed ones",
            partial(_vocabulary, schema, keywords),
        ),
    }


def rights(rows: Sequence[Prediction]) -> Any:
    """1 for each row whose answer has the gold answer's value, else 0."""
    return np.array([float(row["prediction"] == row["gold"]) for row in rows])


def fields(row: Prediction) -> Labelled:
    """The fields of the gold values, of the values given, and of those that agree."""
    gold, said = _values(row["gold"]), _values(row["prediction"])
    hits = (gold & said).elements()
    return Labelled(*([path for path, _ in pairs] for pairs in (gold.elements(), said.elements(), hits)))


def _values(text: Target | None) -> Counter[tuple[str, str]]:
    """How often each field has each value."""
    return Counter() if text is None else Counter(_leaves(json.loads(str(text)), ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for child in node:
            yield from _leaves(child, f"{path}[]")
    else:
        yield path, canonical(node)


def _broken(validator: Any, row: Prediction) -> set[str]:
    """The keywords of the schema that an answer breaks; one that does not parse breaks `type`."""
    if row["prediction"] is None:
        return {"type"}
    return {str(error.validator) for error in _all(validator.iter_errors(json.loads(str(row["prediction"]))))}


def _all(errors: Any) -> Iterator[Any]:
    """Errors with those of the alternatives that anyOf and oneOf tried."""
    for error in errors:
        yield error
        yield from _all(error.context)


def _vocabulary(
    schema: Mapping[str, Any] | bool,
    keywords: Callable[[Prediction], set[str]],
    rows: Sequence[Prediction],
    scope: Scope,
) -> ArmStatistic | None:
    """None where the schema lists no allowed values."""
    if not any(f'"{keyword}":' in canonical(schema) for keyword in VOCABULARY):
        return None
    kept = [row["prediction"] is not None and not keywords(row) & set(VOCABULARY) for row in rows]
    return mean(np.array(kept, dtype=float), scope.groups)


def _rate(averages: str, kept: Callable[[Prediction], bool]) -> Measure:
    return Measure(
        averages, lambda rows, scope: mean(np.array([float(kept(row)) for row in rows]), scope.groups)
    )


def _even(value: Any) -> Any:
    """1.0 is 1, as JSON Schema has it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _even(child) for key, child in value.items()}
    return [_even(child) for child in value] if isinstance(value, list) else value


def _refuse(constant: str) -> None:
    raise ValueError(constant)
