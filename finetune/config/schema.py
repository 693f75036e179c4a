"""Every setting of a run, with its type, its one default and the reason for it.

YAML under conf/ carries only what differs from here. Paths are strings: OmegaConf would
write a Path as a Python object that no safe loader reads back.
"""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from finetune.config.data import DataConfig
from finetune.config.model import ModelConfig
from finetune.config.plan import HardwareConfig, PlanConfig, PolicyConfig

OPERATIONAL = {"identity": False}
"""Metadata of a setting that changes nothing in what a run makes: no part of its id, and free to differ later."""


class Optimizer(Enum):
    auto = "auto"
    adamw_torch = "adamw_torch"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    paged_adamw_32bit = "paged_adamw_32bit"


class Checkpointing(Enum):
    none = "none"
    """Keep every activation: the fastest step and the most memory."""
    selective = "selective"
    """Keep the attention outputs and recompute the rest."""
    full = "full"
    """Keep the input of each layer and recompute the layer in the backward pass: a third more FLOPs."""


class Schedule(Enum):
    cosine = "cosine"
    linear = "linear"
    constant_with_warmup = "constant_with_warmup"


class TaskKind(Enum):
    classification = "classification"


class Metric(Enum):
    exact_match = "exact_match"
    macro_f1 = "macro_f1"


class TrackingMode(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class LoraSettings:
    rank: int = 16
    """Adapter rank. Memory and capacity grow with it; 16 is enough for extraction tasks."""
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Module names, or all-linear: every linear layer but the head (QLoRA, arXiv 2305.14314)."""


@dataclass
class TrainConfig:
    seed: int = 0
    epochs: float = 1.0
    max_steps: int | None = None
    """Stop after this many optimizer steps. None: after `epochs`."""
    global_batch: int = 16
    """Rows per optimizer step."""
    micro_batch: int = 16
    """Rows per forward pass; the rest of the global batch is accumulated."""
    lr: float = 2e-4
    schedule: Schedule = Schedule.cosine
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: Optimizer = Optimizer.auto
    """auto: paged_adamw_8bit on CUDA, adamw_torch on CPU (paging does nothing there)."""
    max_tokens: int = 2048
    """Longest row in tokens, answer included."""
    max_over_length_fraction: float = 0.0
    """Share of rows that may be left out as too long; above it the stage stops (exit 3)."""
    checkpointing: Checkpointing = Checkpointing.full
    checkpoint_every: int = 1
    """With checkpointing: recompute every n-th layer only, and keep the activations of the others."""
    offload_activations: bool = False
    """With checkpointing: hold the kept layer inputs in host memory. CUDA only."""
    packing: bool = False
    """Lay the rows of a micro-batch end to end instead of padding them; each row sees itself alone."""
    log_every_steps: int = 5
    save_every_minutes: float = field(default=10.0, metadata=OPERATIONAL)
    """A checkpoint after the step that ends this long after the last one: what a killed run repeats at most."""
    save_every_steps: int | None = field(default=None, metadata=OPERATIONAL)
    """A checkpoint after every so many steps as well. None: by the clock alone."""
    keep_checkpoints: int = field(default=2, metadata=OPERATIONAL)
    """The newest so many; the one before the newest serves where that is damaged."""
    mirror: str | None = field(default=None, metadata=OPERATIONAL)
    """A URL that fsspec opens, such as s3://bucket/runs: finished checkpoints are copied there, and a new machine
    goes on from them."""
    spike_deviations: float = field(default=6.0, metadata=OPERATIONAL)
    """A step's loss so many robust standard deviations above the last steps' median is logged with its row ids."""
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass
class TaskConfig:
    kind: TaskKind = MISSING
    metric: Metric = Metric.exact_match
    """The primary metric, which the verdict is about."""


@dataclass
class EvalConfig:
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    primary: str = MISSING
    """The task whose metric decides the verdict."""
    min_gain: float = 0.0
    """The least gain over the reference arm that counts as better."""
    resamples: int = 5000
    """Bootstrap draws of whole groups."""
    confidence: float = 0.95
    seed: int = 0
    batch_rows: int = 32
    max_new_tokens: int = 64
    accept_inconclusive: bool = False


@dataclass
class UseConfig:
    """What the merged model is for. No defaults: a licence that asks must be answered."""

    commercial: bool | None = None
    """Whether a company uses it, in whatever way and whether or not it earns by it."""
    monthly_users: int | None = None
    """Of all products and services of the company and its affiliates: what licences with a limit count."""


@dataclass
class ExportConfig:
    use: UseConfig = field(default_factory=UseConfig)
    min_positions: int = 1000
    """Answer positions of the test set that the fidelity comparison must cover."""
    max_fp32_kl: float = 1e-4
    """Nats a position, merged against adapter in fp32: what the order of sums may cost."""
    min_fp32_top1: float = 0.999
    max_kl_over_floor: float = 3.0
    """bf16 KL of merged against adapter, in units of the adapter's own noise floor.

    Measured: 1.0 on the demo's trained adapter, 1.9 on a random 2-layer Llama.
    """
    fp32_check: bool = True
    """Needs 4 bytes a parameter in memory; false leaves fp32_kl and fp32_top1 null, and the card says so."""


@dataclass
class TrackingConfig:
    mode: TrackingMode = TrackingMode.offline
    project: str = "hallmark"
    key_from_env: str = "WANDB_API_KEY"
    """Name of the environment variable that holds the key; never the key."""


@dataclass
class PathsConfig:
    data_root: str = MISSING
    models_root: str = MISSING
    artifacts_root: str = MISSING
    runs: str = "runs"
    rehash: bool = False
    """Recompute every file hash instead of trusting the cache keyed by inode, size and mtime."""


@dataclass
class RunConfig:
    name: str = MISSING
    """The experiment; equal to the name of its file."""
    run: str | None = None
    """Run id of the main input (RUN=). None: the last finished one."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
