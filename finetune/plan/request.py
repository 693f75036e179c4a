"""What is asked of the planner: the configured step, and the work that the prepared rows make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune.architecture import config_of
from finetune.artifacts import Artifact
from finetune.chat import IGNORE, Encoded
from finetune.config import RunConfig
from finetune.config.model import Attention, Quantisation
from finetune.config.plan import Device
from finetune.config.schema import Optimizer, TrainConfig
from finetune.dataset import TrainingRows, steps
from finetune.errors import ConfigError
from finetune.methods import ALL_LINEAR
from finetune.plan.settings import AttentionKernel, Settings
from finetune.rows import read_rows

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


def workload(run: RunConfig, data: Artifact | None) -> Workload:
    """The work of a run before its tokenizer is there: rows of train.max_tokens, tokens by their characters."""
    longest = run.train.max_tokens
    if data is None:
        note = "no prepared rows yet: memory and speed are for rows of train.max_tokens, hours are unknown"
        return Workload(longest, longest, note=note)
    rows = read_rows(data.path("train.jsonl"))
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
        attention=_kernel(run),
        gpus=run.plan.gpus,
        device=run.hardware.device,
    )


def _kernel(run: RunConfig) -> AttentionKernel:
    if run.model.attention is Attention.eager:
        return AttentionKernel.eager
    return AttentionKernel.flash if run.hardware.device is Device.cuda else AttentionKernel.sdpa


def require_possible(run: RunConfig, architecture: Mapping[str, Any]) -> None:
    """Raises ConfigError where rows are longer than the model's positions, or a rank exceeds an adapted layer."""
    problems = []
    positions = architecture.get("max_position_embeddings")
    if positions is not None and run.train.max_tokens > positions:
        problems.append(
            f"train.max_tokens={run.train.max_tokens} exceeds the {positions} positions of model={run.model.name}"
        )
    name, width = narrowest(architecture, run.train.lora.targets)
    if run.train.lora.rank > width:
        problems.append(
            f"train.lora.rank={run.train.lora.rank} exceeds the {width} of layer {name}; a rank above it adds nothing"
        )
    if problems:
        raise ConfigError(problems)


def narrowest(architecture: Mapping[str, Any], targets: Sequence[str]) -> tuple[str, int]:
    """The adapted layer of the smallest width, in or out, and that width; read off one layer of the model."""
    import torch
    from transformers import AutoModelForCausalLM, initialization

    with torch.device("meta"), initialization.no_init_weights():
        network = AutoModelForCausalLM.from_config(
            config_of({**architecture, "num_hidden_layers": LAYERS_READ})
        )
    widths = {
        name.rsplit(".", 1)[-1]: min(module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not network.get_output_embeddings()
    }
    chosen = {name: width for name, width in widths.items() if list(targets) == ALL_LINEAR or name in targets}
    return min((chosen or widths).items(), key=lambda item: item[1])


LAYERS_READ = 2
"""Some models (DeepSeek V2) build their first layer unlike the others."""
