"""A 2-layer Llama with random weights, a byte tokenizer and 40 labelled rows, built where a test needs them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.chat import Message

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIALS = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
SUBJECTS = "lease loan supply licence service agency franchise hosting".split()


class Letters:
    """A tokenizer whose tokens are characters, so that a mask can be read by eye."""

    chat_template: str | None = "template"
    bos_token: str | None = None
    eos_token: str | None = "$"
    today = False

    def __init__(self) -> None:
        self.all_special_tokens = ["$"]
        self.added_tokens_decoder: dict[int, Any] = {}

    def apply_chat_template(self, conversation: Sequence[Message], **kwargs: Any) -> Any:
        text = "".join(f"[{message['role'][0]}]{message['content']}$\n" for message in conversation)
        if self.today:
            text = kwargs.get("date_string") or kwargs["strftime_now"]("%d %b %Y")
        text += "[a]" if kwargs.get("add_generation_prompt") else ""
        return self.encode(text) if kwargs["tokenize"] else text

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        return "".join(map(chr, ids))


def build_tokenizer(folder: Path) -> Any:
    """One token a byte, plus the marks of the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIALS + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIALS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_model(folder: Path, seed: int = 0, tied: bool = False, heads: int = 4) -> Any:
    """The model folder a `kind: folder` base points at: weights, config, tokenizer, licence text.

    vLLM computes no heads of fewer than 32 values on a CPU, so it takes `heads=2`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        initializer_range=0.2,  # large enough that the adapter's effect stands above bf16 rounding
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "LICENSE").write_text("Made for a test; no rights reserved.\n")
    return model


def write_rows(path: Path, rows: int = 40) -> None:
    """Rows of two labels, four rows a contract; the label follows from the text."""
    with path.open("w") as stream:
        for index in range(rows):
            label = "notice" if index % 5 < 3 else "payment"
            word = "notify" if label == "notice" else "pay"
            subject = SUBJECTS[index % len(SUBJECTS)]
            text = f"Clause {index * 7919 % 1000} of the {subject} agreement number {index}: the party shall {word}."
            stream.write(
                json.dumps({"text": text, "target": label, "contract": f"contract-{index // 4}"}) + "\n"
            )


def environment(folder: Path) -> dict[str, str]:
    """Where the stages of a team's private folder look for what is theirs."""
    names = {"CONF_DIR": "conf", "DATA_ROOT": "data", "MODELS_ROOT": "models", "ARTIFACTS_ROOT": "artifacts"}
    return {key: str(folder / name) for key, name in names.items()}


def write_conf(folder: Path) -> None:
    """A CONF_DIR with the experiment `tiny`, as a team with private settings would keep it."""
    files = {
        "licence/LicenseRef-test.yaml": (
            "id: LicenseRef-test\ntitle: Licence of a test\ncommercial: true\nmax_monthly_users: null\nnotice: null\n"
            "display: null\nname_prefix: null\nships: [LICENSE]\nbinds_outputs: false\noutputs_train_others: true\n"
            "clause: asks for nothing\nsource: tests/tiny.py\n"
        ),
        "model/tiny_llama.yaml": (
            "name: tiny_llama\nlicence: LicenseRef-test\nexport_name: tiny-merged\n"
            "base:\n  kind: folder\n  path: tiny_llama\n"
        ),
        "data/tiny_rows.yaml": (
            "name: tiny_rows\nlicence: LicenseRef-test\nlabels: [notice, payment]\n"
            "source:\n  kind: table\n  path: rows.jsonl\n  text_field: text\n  target_field: target\n"
            "  group_field: contract\nsplit:\n  test_fraction: 0.3\n"
        ),
        "eval/tiny_eval.yaml": (
            "primary: clause\naccept_inconclusive: true\nresamples: 200\nmax_new_tokens: 10\n"
            "forgetting: {rows: 8, max_new_tokens: 8}\n"
            "tasks:\n  clause:\n    kind: classification\n"
        ),
        "experiment/tiny.yaml": (
            "# @package _global_\ndefaults:\n  - override /model: tiny_llama\n  - override /data: tiny_rows\n"
            "  - override /train: qlora_cpu\n  - override /eval: tiny_eval\n\nname: tiny\n"
            "train:\n  max_steps: 30\n  global_batch: 8\n  micro_batch: 8\n  lr: 1e-2\n"
            "export:\n  min_positions: 20\n  max_top1_below_floor: 0.1 # random weights, 88 positions\n"
        ),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def loaded_model(folder: Path, quantised: bool = True) -> Any:
    """The model folder as training loads it."""
    from finetune.artifacts import Artifact
    from finetune.config.model import BaseConfig, BaseKind, ModelConfig, Quantisation
    from finetune.config.plan import Device, HardwareConfig
    from finetune.model import load_base

    kind = Quantisation.nf4 if quantised else Quantisation.none
    model = ModelConfig("tiny", "x", "tiny", BaseConfig(BaseKind.folder, "tiny"), quantisation=kind)
    return load_base(Artifact(folder, None), model, HardwareConfig("cpu", Device.cpu))  # type: ignore[arg-type]
