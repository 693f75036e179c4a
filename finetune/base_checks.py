"""What a base folder must hold before it is pinned: whole safetensors, settings, tokenizer, licence texts; no code."""

import json
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from finetune.architecture import architecture_of, config_of
from finetune.artifacts.manifest import MANIFEST
from finetune.config.model import ModelConfig
from finetune.console import say
from finetune.errors import DataError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
COMPANIONS = ("*.json", "*.jinja", "*.model", "merges.txt")
NO_COMPANIONS = ("*.bin.index.json", "*.h5.index.json", "*.msgpack.index.json", MANIFEST)
"""Indexes of weights that are not copied, and the manifest of a base that was pinned elsewhere."""
LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "ACCEPTABLE_USE_POLICY")
LEFT_OUT = (
    ".py",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".h5",
    ".msgpack",
    ".safetensors",
    ".gguf",
    ".onnx",
)
"""Kinds of files whose absence from the copy is said: code, and weights that are not loaded."""
ENDS = ("bos_token", "eos_token", "pad_token", "unk_token")


def is_legal(name: str, ships: Collection[str] = ()) -> bool:
    """Whether a file is a licence, notice or use-policy text, or one that the licence record names."""
    return name.upper().startswith(LEGAL) or name in ships


def companions(names: Collection[str], ships: Collection[str], where: str, texts: str) -> list[str]:
    """The files to copy beside the weights: settings, tokenizer, licence texts.

    Raises DataError with a line for each thing that is missing; `texts` is where a person puts licence texts.
    """
    problems = [*_missing(names, where), *_missing_texts(names, ships, where, texts)]
    if problems:
        raise DataError(problems)
    return sorted(name for name in names if _is_companion(name) or is_legal(name, ships))


def _is_companion(name: str) -> bool:
    return _matches(name, COMPANIONS) and not _matches(name, NO_COMPANIONS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _missing(names: Collection[str], where: str) -> Iterator[str]:
    if "adapter_config.json" in names:
        yield f"{where} holds an adapter (adapter_config.json), not a base; give the weights that it was trained on"
    if "config.json" not in names:
        yield f"{where} holds no config.json; give a model folder in Hugging Face layout"
    if not any(name.endswith(".safetensors") for name in names):
        yield f"{where} holds no *.safetensors; other weight formats may run code and are refused"
    elif INDEX not in names and SINGLE not in names:
        yield f"{where} holds neither {INDEX} nor {SINGLE}; put the one there that belongs to its shards"
    if "tokenizer.json" not in names:
        yield f"{where} holds no tokenizer.json; save the base's tokenizer as a fast one and put it there"


def _missing_texts(names: Collection[str], ships: Collection[str], where: str, texts: str) -> Iterator[str]:
    there = {_stem(name) for name in names}
    needed = {_stem(name): name for name in ("LICENSE", *ships)}
    lacking = [name for stem, name in needed.items() if stem not in there]
    if lacking:
        yield (
            f"{where} holds no {listing(lacking)} text; put the base's own into {texts}, or nothing made from it may "
            "ship"
        )


def _stem(name: str) -> str:
    return Path(name).stem.upper().replace("LICENCE", "LICENSE")


def weights(folder: Path, names: Collection[str], where: str) -> list[str]:
    """The safetensors that transformers loads: those that the index names, or the single file.

    Raises DataError where the index names files that are not there, or where two sets of weights are.
    """
    if INDEX not in names:
        return [SINGLE]
    shards = sorted(set(_weight_map(folder, where).values()))
    missing = [name for name in shards if name not in names]
    if missing:
        raise DataError(
            f"{where}: {INDEX} names {len(shards)} files and {len(missing)} of them are not there "
            f"({listing(missing)}); put them there"
        )
    if SINGLE in names and SINGLE not in shards:
        raise DataError(f"{where} holds {SINGLE} beside the shards of {INDEX}; remove what is not meant")
    return shards


def shards(base: Path) -> list[Path]:
    """The base's weight files in order. Raises DataError where its index names one that is missing."""
    if not (base / INDEX).is_file():
        return sorted(base.glob("*.safetensors"))
    named = sorted(set(json.loads((base / INDEX).read_text())["weight_map"].values()))
    missing = [name for name in named if not (base / name).is_file()]
    if missing:
        raise DataError(f"{base / INDEX} names {missing[0]}, which is not there")
    return [base / name for name in named]


def left_out(names: Collection[str], copied: Collection[str]) -> list[str]:
    """Code and other weights that stand beside what is copied."""
    return sorted(name for name in set(names) - set(copied) if name.endswith(LEFT_OUT))


def require_whole(folder: Path, shards: Sequence[str], where: str) -> None:
    """Raise DataError with a line for each file of weights that is cut short or disagrees with the index."""
    expected: dict[str, set[str]] = {}
    if (folder / INDEX).is_file():
        for tensor, shard in _weight_map(folder, where).items():
            expected.setdefault(shard, set()).add(tensor)
    problems = [line for name in shards for line in _shard_problems(folder, name, expected.get(name), where)]
    if problems:
        raise DataError(problems)


def _shard_problems(folder: Path, name: str, expected: set[str] | None, where: str) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / name, framework="np") as file:
            found = set(file.keys())
    except SafetensorError as error:
        yield f"{where}/{name} is damaged or cut short ({error}); copy it again"
        return
    for tensors, problem in (
        ((expected or found) - found, f"lacks tensors that {INDEX} names for it"),
        (found - (expected or found), f"holds tensors that {INDEX} does not name for it"),
    ):
        if tensors:
            yield (
                f"{where}/{name} {problem}: {len(tensors)} ({listing(sorted(tensors))}); copy the weights and the "
                "index of one revision"
            )


def _weight_map(folder: Path, where: str) -> dict[str, str]:
    found = read_json(folder / INDEX, where).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise DataError(f"{where}/{INDEX} has no weight_map from tensors to files; copy it again")
    return found


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file of the base. Raises DataError where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{where}/{path.name} is no JSON object; copy it again")
    return found


def require_usable(model: ModelConfig, folder: Path, where: str) -> None:
    """Refuse settings and tokenizer that are not those of `model`, or that need code of their own.

    Raises ConfigError, key by key, where config.json is another model than the config names; DataError where a file
    cannot be read, where the weights are quantised already, or where tokens have no row in the embedding.
    """
    found = read_json(folder / "config.json", where)
    if "quantization_config" in found:
        raise DataError(
            f"{where}/config.json has a quantization_config: its weights are quantised already; give the original "
            "ones, which training quantises itself"
        )
    if "auto_map" in found:
        _require_known(found.get("model_type"), where)
    architecture_of(model, folder)
    rows = config_of(found, f"{where}/config.json").get_text_config().vocab_size
    _require_rows(folder, rows, where)


def _require_known(kind: Any, where: str) -> None:
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        raise DataError(
            f"{where}/config.json: model_type={kind} needs code from its own folder (auto_map), which is never run; "
            "take a base that transformers knows itself"
        )


def _require_rows(folder: Path, rows: int, where: str) -> None:
    """Each token that a prompt can hold has a row in the embedding. Gemma 3 1B has a token for images that has none."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # noqa: BLE001  (the library raises nothing more specific)
        raise DataError(f"{where}/tokenizer.json is no tokenizer that can be read; copy it again") from None
    beyond = sorted(token for token, index in tokenizer.get_vocab().items() if index >= rows)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    written = _template_and_ends(folder, where)
    if any(token not in special or token in written for token in beyond):
        raise DataError(
            f"{where}/tokenizer.json has {len(beyond)} tokens ({listing(beyond)}) beyond the {rows} rows of the model "
            "(vocab_size); take the tokenizer that belongs to these weights"
        )
    if beyond:
        say(f"note: no text may hold {listing(beyond)}, for which the model has no embedding")


def _template_and_ends(folder: Path, where: str) -> str:
    """Whatever the base itself writes into a prompt."""
    template, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    text = template.read_text(encoding="utf-8") if template.is_file() else ""
    if settings.is_file():
        found = read_json(settings, where)
        text += json.dumps([found.get(key) for key in (*ENDS, "chat_template")], ensure_ascii=False)
    return text


def listing(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
