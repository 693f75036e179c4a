"""Answers kept by what decides them, so that a killed or repeated evaluation goes on where it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic, provenance
from finetune.artifacts.hashing import canonical, sha256_text
from finetune.config.schema import PathsConfig
from finetune.console import say
from finetune.generate import Answer
from finetune.model import Loaded

FOLDER = "answers"
"""Below the artifacts root: a folder for each experiment, a file for each batch. Safe to delete."""
VERSION = 1
"""Raised where the same weights, prompts and settings answer otherwise than before."""


@dataclass(frozen=True)
class AnswerCache:
    """One file for each batch of prompts, named by the digest of all that decides its answers."""

    folder: Path

    @classmethod
    def of(cls, paths: PathsConfig, name: str) -> "AnswerCache":
        """The answers of an experiment."""
        return cls(Path(paths.artifacts_root) / FOLDER / name)

    def read(self, key: str, count: int) -> list[Answer] | None:
        """The `count` answers of a batch; None where they are not there, or no longer what was written."""
        path = self._path(key)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            answers = [Answer(**{**item, "ids": tuple(item["ids"])}) for item in found["answers"]]
            whole = found["key"] == key and found["sha256"] == _digest(answers) and len(answers) == count
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            say(f"note: {path} is damaged; its {count} answers are computed again")
            return None
        return answers

    def write(self, key: str, answers: Sequence[Answer]) -> None:
        """Keep the answers of a batch: by its name the file is there whole or not at all."""
        atomic.make_folder(self.folder)
        record = {
            "schema": 1,
            "key": key,
            "sha256": _digest(answers),
            "answers": [asdict(item) for item in answers],
        }
        atomic.replace_text(self._path(key), json.dumps(record, ensure_ascii=False))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def key_of(weights: str, settings: Mapping[str, Any], prompts: Sequence[list[int]]) -> str:
    """The digest of a batch: other weights, settings, libraries or neighbours in the batch give another one."""
    return sha256_text(
        canonical([VERSION, weights, settings, provenance.versions(), machine(), list(prompts)])
    )


def weights_of(loaded: Loaded) -> str | None:
    """The digest of the weights that answer now: base, and adapter unless it is switched off. None: not known."""
    if loaded.base is None:
        return None
    config = loaded.model.config
    how = config.quantization_config.to_dict() if getattr(config, "quantization_config", None) else None
    parts = [loaded.base, how, str(loaded.model.dtype), config._attn_implementation]
    return sha256_text(canonical([*map(str, parts), _adapter(loaded.model), loaded.renderer.template_hash()]))


def machine() -> list[str]:
    """What else decides the last bits: the device, and on a CPU its instructions and how many threads add."""
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(), str(torch.version.cuda)]
    return [torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())]


def _adapter(network: Any) -> str:
    """The digest of the active adapter as it stands in memory: its name says nothing about its weights."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(network, PeftModel):
        return "none"
    if any(module.disable_adapters for module in network.modules() if isinstance(module, BaseTunerLayer)):
        return "none"
    digest = hashlib.sha256()
    for name in network.active_adapters:
        config = network.peft_config[name].to_dict()
        state = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
        digest.update(json.dumps(config, sort_keys=True, default=_plain).encode())
        for key, tensor in sorted(state.items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON has not: PEFT keeps its targets as a set, whose order is another in each process."""
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


def _digest(answers: Sequence[Answer]) -> str:
    return sha256_text(canonical([asdict(item) for item in answers]))
