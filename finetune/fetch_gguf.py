"""A GGUF file as a base: bf16 safetensors, with tokenizer files that vLLM and llama.cpp read."""

import json
from pathlib import Path

from finetune.architecture import architecture_of
from finetune.artifacts import Output
from finetune.config.model import ModelConfig
from finetune.errors import DataError
from finetune.model import prepare_libraries
from finetune.packages import package_licence

SHARD_MIB = 100
BF16_BYTES = 2


def converted_bytes(source: Path) -> int:
    """Bytes of the file's tensors in bf16."""
    from gguf import GGUFReader

    return sum(BF16_BYTES * int(tensor.n_elements) for tensor in GGUFReader(source).tensors)


def convert(source: Path, output: Output, model: ModelConfig) -> None:
    """Write weights, tokenizer and the package's licence text.

    Raises DataError where the package has no licence text, ConfigError where the file is another model than `model`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    prepare_libraries()
    options = {"gguf_file": source.name, "dtype": torch.bfloat16}
    network = AutoModelForCausalLM.from_pretrained(
        source.parent, quantization_config=GgufConfig(dequantize=True), **options
    )
    network.save_pretrained(output.folder, max_shard_size=f"{SHARD_MIB}MB")
    architecture_of(model, output.folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(output.folder)
    normalise_tokenizer(output.folder)
    licence = package_licence(source.parent.name)
    if licence is None:
        raise DataError(
            f"the package {source.parent.name} carries no licence text, so nothing made from it may ship"
        )
    output.copy(licence, "LICENSE")


def normalise_tokenizer(folder: Path) -> None:
    """Undo what transformers 5 writes and servers cannot read; the template in both places."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["chat_template"] = (folder / "chat_template.jinja").read_text()
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
