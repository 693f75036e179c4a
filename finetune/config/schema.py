"""Every setting of a run, with its type, its one default and the reason for it.

YAML under conf/ carries only what differs from here. Paths are strings: OmegaConf would
write a Path as a Python object that no safe loader reads back.
"""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from finetune.config.data import DataConfig
from finetune.config.eval import EvalConfig
from finetune.config.model import ModelConfig
from finetune.config.plan import HardwareConfig, PlanConfig, PolicyConfig
from finetune.config.serve import ServeConfig

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
    cosine_with_min_lr = "cosine_with_min_lr"
    """Down to min_lr instead of 0."""
    warmup_stable_decay = "warmup_stable_decay"
    """Constant after the warm-up; a cosine down to min_lr over the last decay_fraction of the steps."""


class BestMetric(Enum):
    """What tells the best validation of a run from the others."""

    validation_loss = "validation_loss"
    """Mean over all trained tokens of the validation rows: lower is better."""
    exact_match = "exact_match"
    """Share of validation rows whose greedy answer is the right one: higher is better. Takes longer: it generates."""


class TrackingMode(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class LoraSettings:
    rank: int = 16
    """Adapter rank. Memory and capacity grow with it; 16 is enough for extraction tasks."""
    alpha: int = 32
    """The product of the factors counts alpha / rank times."""
    dropout: float = 0.0
    rslora: bool = False
    """alpha / sqrt(rank) instead: what a large rank adds is not scaled away (arXiv 2312.03732)."""
    dora: bool = False
    """Learn the length of each output's weights apart from their direction (DoRA, arXiv 2402.09353)."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Module names, or all-linear: every linear layer but the head (QLoRA, arXiv 2305.14314)."""
    layers: list[int] | None = None
    """Numbers of the layers that get adapters, from 0. None: all."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Another rank where the end of a module's name matches, as {q_proj: 8, layers.0.mlp.up_proj: 32}."""
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    """The same for alpha."""


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
    """Share of the steps over which lr rises from 0."""
    decay_fraction: float | None = None
    """schedule=warmup_stable_decay: share of the steps over which lr falls at the end."""
    min_lr: float | None = None
    """Where lr ends. cosine_with_min_lr needs it; of warmup_stable_decay None means 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: Optimizer = Optimizer.auto
    """auto: paged_adamw_8bit on CUDA, adamw_torch on CPU (paging does nothing there)."""
    max_tokens: int = 2048
    """Longest row in tokens, answer included."""
    max_over_length_fraction: float = 0.0
    """Share of rows that may be left out as too long; above it the stage stops (exit 3)."""
    max_marked_fraction: float = 0.0
    """Share of rows that may be left out because their text holds the template's marks, such as <|im_end|> (exit 3)."""
    max_untrained_fraction: float = 0.0
    """Share of rows that may be left out because their answer is blank (exit 3)."""
    mix: dict[str, float] = field(default_factory=dict)
    """Data sets to learn from, by weight: their shares of the rows that any step sees. Empty: `data` alone."""
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
    validate_every_steps: int | None = None
    """Optimizer steps from one validation on val.jsonl to the next; the last step is validated too. None: never."""
    validation_rows: int | None = None
    """Validate on the first so many rows of val.jsonl. None: on all."""
    best_metric: BestMetric = BestMetric.validation_loss
    """What patience and keep_best go by."""
    keep_best: bool = True
    """Of a validated run, the adapter of the best validation is the result, not that of the last step."""
    patience: int | None = None
    """Validations in a row without a gain after which the run stops. None: run to the end."""
    min_delta: float = 0.0
    """A validation that is better by no more than this is no gain."""
    lora: LoraSettings = field(default_factory=LoraSettings)


class ExportFormat(Enum):
    merged = "merged"
    """Whole bf16 weights, as every server reads them."""
    adapter = "adapter"
    """The adapter alone, for a server that holds the base (vLLM --enable-lora)."""
    nf4 = "nf4"
    """The merged weights quantised once more, in bitsandbytes' format: a quarter of the size, not evaluated."""


@dataclass
class UseConfig:
    """What the merged model is for. No defaults: a licence that asks must be answered."""

    commercial: bool | None = None
    """Whether a company uses it, in whatever way and whether or not it earns by it."""
    monthly_users: int | None = None
    """Of all products and services of the company and its affiliates: what licences with a limit count."""


class MergeBase(Enum):
    dequantised = "dequantised"
    """The 4-bit base as training multiplied with it, dequantised: the function that was trained and evaluated."""
    original = "original"
    """The pinned base as its maker stored it: no error of quantisation, but weights that the adapter never saw."""
    auto = "auto"
    """Merge onto both, measure both on validation rows, ship one and record both (docs/export.md)."""


@dataclass
class ExportConfig:
    format: ExportFormat = ExportFormat.merged
    use: UseConfig = field(default_factory=UseConfig)
    base: MergeBase = MergeBase.dequantised
    auto_rows: int = 200
    """base=auto: the first so many validation rows decide."""
    min_positions: int = 1000
    """Answer positions of the test set that there must be."""
    free_positions: int = 3000
    """Answer positions that the format leaves open, at which the comparison is wanted; fewer are told, not refused."""
    max_fp32_kl: float = 1e-4
    """Nats a position, merged against adapter in fp32: what the order of sums may cost."""
    min_fp32_top1: float = 0.999
    max_kl_over_floor: float = 3.0
    """bf16 KL of merged against adapter, in units of the adapter's own noise floor.

    Measured: 1.0 on the demo's trained adapter, 1.9 on a random 2-layer Llama.
    """
    max_top1_below_floor: float = 0.01
    """bf16 top-1 agreement of merged and adapter may lie so far below that of the noise floor."""
    fp32_check: bool = True
    """Needs 4 bytes a parameter in memory; false leaves fp32_kl and fp32_top1 null, and the card says so."""
    force: bool = False
    """Export although no evaluation lets this adapter pass; recorded in the manifest's overrides and the card."""
    intended_use: str = ""
    """What the model is for and for whom, in your words, for the card. Empty: the card says that nobody stated it."""
    approver: str = ""
    """Who approved the hand-over, for the card. Empty: the card says that nobody is named."""
    signing_key: str | None = field(default=None, metadata=OPERATIONAL)
    """A PEM file with an elliptic-curve key. None: one that is made once as $ARTIFACTS_ROOT/.signing.pem."""
    signing_password_from_env: str | None = field(default=None, metadata=OPERATIONAL)
    """Name of the environment variable that holds the key's password; never the password. None: it has none."""


@dataclass
class TrackingConfig:
    mode: TrackingMode = TrackingMode.offline
    project: str = "hallmark"
    key_from_env: str = "WANDB_API_KEY"
    """Name of the environment variable that holds the key; never the key."""


@dataclass
class ShowConfig:
    """What `make show-mask` shows."""

    rows: int = 3
    """So many rows, from the first on; all of `ids` where these are given."""
    ids: list[str] = field(default_factory=list)
    characters: int = 4000
    """Of a longer passage of one kind only the two ends of together so many characters are shown."""


@dataclass
class AskConfig:
    """What `make ask` answers."""

    file: str | None = None
    """FILE=: .txt with a prompt a line, .jsonl with a prompt or messages a row, or - for standard input, as .txt."""
    out: str | None = None
    """OUT=: a new .jsonl that takes prompts and answers. None: nothing is written."""
    characters: int = 2000
    """Of a longer prompt only the two ends of together so many characters are shown."""


@dataclass
class ReviewConfig:
    """What `make review` gives to experts."""

    rows: int = 50
    """Drawn from the test rows that the two arms answer differently; all of them where there are fewer."""
    against: str = "base"
    """The arm of the report that the adapter is compared with."""
    file: str | None = field(default=None, metadata=OPERATIONAL)
    """FILE=: filled sheets to score, one for each reviewer, with commas between, or the folder that holds them."""


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
    serve: ServeConfig = field(default_factory=ServeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    show: ShowConfig = field(default_factory=ShowConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
