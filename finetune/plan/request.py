"""What is asked of the planner: the configured step, and the work that the prepared rows make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune.architecture import config_of
from finetune.chat import IGNORE, Encoded
from finetune.config import RunConfig
from finetune.config.model import Attention, Quantisation
from finetune.config.plan import Device
from finetune.config.schema import LoraSettings, Optimizer, TrainConfig
from finetune.dataset import TrainingRows, steps
from finetune.errors import ConfigError
from finetune.methods import lora_problems
from finetune.plan.settings import AttentionKernel, Settings
from finetune.training_data import TrainingData

CHARACTERS_PER_TOKEN = 3.0
"""English prose has about four characters a token with these vocabularies; three errs towards longer runs."""


@dataclass(frozen=True)
class Workload:
    """The tokens of a run. `tokens` are those of the rows themselves; `padded` what the steps compute with padding."""

    longest: int
    """Tokens of the longest row."""
    row_tokens: int
    """Tokens of a row of the largest micro-batch: of its longest with padding, their mean where they are packed."""
    uneven: bool = False
    """The rows of that micro-batch differ in length, so attention takes a mask of each."""
    trained: int | None = None
    """Answer tokens of it, all rows together. None: every token."""
    steps: int | None = None
    tokens: int | None = None
    padded: int | None = None
    note: str = ""


class BatchSize(NamedTuple):
    """The size of a micro-batch; the largest of a run is the one that the plan is about."""

    tokens: int
    """Padding included."""
    row_tokens: int
    uneven: bool
    trained: int


def batch_size(batch: Sequence[Encoded], train: TrainConfig) -> BatchSize:
    """How much of each a micro-batch of these rows takes."""
    lengths = [len(row.ids) for row in batch]
    tokens = sum(lengths) if train.packing else max(lengths) * len(batch)
    uneven = not train.packing and len(set(lengths)) > 1
    trained = sum(label != IGNORE for row in batch for label in row.labels)
    return BatchSize(tokens, -(-tokens // len(batch)), uneven, trained)


def measured_workload(rows: TrainingRows, train: TrainConfig) -> Workload:
    """What the steps of a run really take, from its rows in their order."""
    sizes = [
        batch_size([rows.rows[index] for index in rows.order[start : start + train.micro_batch]], train)
        for start in range(0, len(rows.order), train.micro_batch)
    ]
    longest, largest = max(len(rows.rows[index].ids) for index in rows.order), max(sizes)
    padded = sum(size.tokens for size in sizes)
    shape = (longest, largest.row_tokens, largest.uneven, largest.trained)
    return Workload(*shape, rows.counts["steps"], rows.counts["tokens"], padded)


def workload(run: RunConfig, data: TrainingData | None) -> Workload:
    """The work of a run before its tokenizer is there: rows of train.max_tokens, tokens by their characters."""
    longest = run.train.max_tokens
    if data is None:
        note = "no prepared rows yet: memory and speed are for rows of train.max_tokens, hours are unknown"
        return Workload(longest, longest, note=note)
    rows = data.rows()
    tokens = sum(min(longest, int(_characters(row) / CHARACTERS_PER_TOKEN)) for row in rows)
    count = steps(len(rows), run.train)
    total = int(tokens * count * run.train.global_batch / max(1, len(rows)))
    note = f"no tokenizer yet: tokens are characters / {CHARACTERS_PER_TOKEN:g}, memory is for rows of train.max_tokens"
    return Workload(longest, longest, False, None, count, total, total, note)


def _characters(row: Mapping[str, Any]) -> int:
    return sum(len(message["content"]) for message in row["messages"]) + len(str(row["target"]))


def settings_of(run: RunConfig, architecture: Mapping[str, Any], work: Workload) -> Settings:
    """The step that `train` would run, at its largest micro-batch."""
    train, cuda = run.train, run.hardware.device is Device.cuda
    optimizer = train.optimizer
    if optimizer is Optimizer.auto:
        optimizer = Optimizer.paged_adamw_8bit if cuda else Optimizer.adamw_torch
    return Settings(
        architecture=architecture,
        rows=train.micro_batch,
        tokens=work.row_tokens,
        trained=work.trained,
        padded=work.uneven,
        packed=train.packing,
        accumulates=train.global_batch > train.micro_batch,
        rank=train.lora.rank,
        targets=tuple(train.lora.targets),
        quantised=run.model.quantisation is Quantisation.nf4,
        double_quantised=run.model.double_quantisation,
        optimizer=optimizer,
        checkpointing=train.checkpointing,
        checkpoint_every=train.checkpoint_every,
        offload=train.offload_activations,
        dropout=train.lora.dropout > 0,
        layers=None if train.lora.layers is None else tuple(train.lora.layers),
        rank_pattern=dict(train.lora.rank_pattern),
        dora=train.lora.dora,
        fused=True,
        attention=_kernel(run),
        gpus=run.plan.gpus,
        device=run.hardware.device,
    )


def _kernel(run: RunConfig) -> AttentionKernel:
    if run.model.attention is Attention.eager:
        return AttentionKernel.eager
    return AttentionKernel.flash if run.hardware.device is Device.cuda else AttentionKernel.sdpa


def require_possible(run: RunConfig, architecture: Mapping[str, Any]) -> None:
    """Raises ConfigError where rows are longer than the model's positions, or the model cannot have the adapter."""
    problems = []
    positions = architecture.get("max_position_embeddings")
    if positions is not None and run.train.max_tokens > positions:
        problems.append(
            f"train.max_tokens={run.train.max_tokens} exceeds the {positions} positions of model={run.model.name}"
        )
    problems += lora_problems(_without_weights(architecture, run.train.lora), run.train.lora)
    if problems:
        raise ConfigError(problems)


def _without_weights(architecture: Mapping[str, Any], lora: LoraSettings) -> Any:
    """The model on the meta device; as deep as it is where settings name single layers, else a few layers of it."""
    import torch
    from transformers import AutoModelForCausalLM, initialization

    from finetune.plan.network import shallow

    named = lora.layers is not None or lora.rank_pattern or lora.alpha_pattern
    depth = architecture["num_hidden_layers"] if named else LAYERS_READ
    with torch.device("meta"), initialization.no_init_weights():
        return AutoModelForCausalLM.from_config(config_of(shallow(architecture, depth)))


LAYERS_READ = 2
"""Some models (DeepSeek V2) build their first layer unlike the others."""
