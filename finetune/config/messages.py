"""Hydra's and OmegaConf's errors in one line: key, value, what is allowed."""

import difflib
import re
from collections.abc import Sequence


def closest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean x?` where a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def one_line(error: BaseException) -> str:
    """The message of a composition error without its advice to use `+`, its cause and key included."""
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text = f"{text}\n{error.__cause__}"
    key = _full_key(text)
    unknown = re.search(r"Key '([^']+)' not in '(\w+)'", text)
    if unknown:
        return _unknown_key(key or unknown[1], unknown[1], unknown[2])
    entry = re.search(r"Key '([^']+)' is not in struct", text)
    if entry:
        table = key.removesuffix(f".{entry[1]}")
        return f"{table} has no entry {entry[1]} yet; on the command line ++{table}={{{entry[1]}:…}} adds it"
    if "Could not override" in text and "No match in the defaults list" in text:
        group = re.search(r"Could not override '([^']+)'", text)
        return f"{group[1] if group else key}: no such group; see conf/ for the groups"
    text = re.split(r"\n\s*Config search path:|; See https", text)[0]
    kept = [line.strip().removeprefix("In 'config': ") for line in text.splitlines() if _says_something(line)]
    message = "; ".join(dict.fromkeys(kept))
    return f"{key}: {message}" if key and key not in message else message


def _full_key(text: str) -> str:
    found = re.search(r"full_key: (\S+)", text) or re.search(r"override '([^']+?)[='].*", text)
    return found[1] if found else ""


def _says_something(line: str) -> bool:
    noise = (
        "full_key:",
        "object_type=",
        "reference_type=",
        "To append to your config",
        "Set the environment variable",
    )
    return bool(line.strip()) and not line.strip().startswith(noise)


def _unknown_key(key: str, name: str, schema_name: str) -> str:
    from finetune.config import data, eval, model, plan, schema, serve  # noqa: A004  (a file of settings, as the others)

    section = next(
        (
            getattr(module, schema_name)
            for module in (schema, data, eval, model, plan, serve)
            if hasattr(module, schema_name)
        ),
        None,
    )
    known = list(getattr(section, "__dataclass_fields__", {}))
    prefix = key.rsplit(".", 1)[0] + "." if "." in key else ""
    return f"{key} is not a known key{closest(name, known, prefix)} (known here: {', '.join(known)})"
