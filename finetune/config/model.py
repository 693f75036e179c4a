"""Settings of the base model: where its weights come from, its shape, its licence, how it is held in memory."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class BaseKind(Enum):
    wheel_gguf = "wheel_gguf"
    folder = "folder"


class Quantisation(Enum):
    nf4 = "nf4"
    none = "none"


class Attention(Enum):
    auto = "auto"
    eager = "eager"
    sdpa = "sdpa"
    flash_attention_2 = "flash_attention_2"


@dataclass
class BaseConfig:
    """Where the base weights come from before they are pinned under bases/."""

    kind: BaseKind = MISSING
    path: str | None = None
    """kind=folder: a folder in Hugging Face layout, relative to paths.models_root."""
    package: str | None = None
    """kind=wheel_gguf: an installed Python package that ships the weights."""
    file: str | None = None
    """kind=wheel_gguf: the GGUF file inside that package."""
    repo: str | None = None
    """The public name of the weights: for the record, and where FROM=hub fetches them."""
    revision: str | None = None
    """The commit, branch or tag of the repo that is meant. FROM=hub pins the commit that it stands for."""
    sha256: str | None = None
    """The content that fetch-base prints; weights of any other content are refused."""
    source: str | None = None
    """FROM= of fetch-base: a folder, a URL such as s3://bucket/folder, or `hub`. None: `path`, or the package."""


@dataclass
class ModelConfig:
    name: str = MISSING
    licence: str = MISSING
    """SPDX id, or LicenseRef-… where SPDX has none. Decides what may ship."""
    export_name: str = MISSING
    """Name of the merged model. Some licences prescribe how it begins."""
    base: BaseConfig = field(default_factory=BaseConfig)
    quantisation: Quantisation = Quantisation.nf4
    architecture: dict[str, Any] = field(default_factory=dict)
    """The shape, in the words of the model's own config.json, so that a plan needs neither weights nor network.

    Empty: read from the base's config.json once it is there.
    """
    double_quantisation: bool = True
    """Quantise the quantisation constants too: saves 0.37 bit a parameter (QLoRA, arXiv 2305.14314)."""
    attention: Attention = Attention.auto
    """auto: flash_attention_2 on CUDA where it is installed, else sdpa."""
    date_string: str | None = None
    """The date that Llama 3.2-style templates print; fixed, or every day has another prompt."""
    origin: list[str] = field(default_factory=list)
    """Maker and ISO 3166 code of its country, such as [Meta, US]; policy.deny may name either."""
