"""Settings of the evaluation: the tasks, what decides, how it is measured."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class TaskKind(Enum):
    classification = "classification"
    """One label an answer."""
    multi_label = "multi_label"
    """A JSON list of labels an answer."""
    extraction = "extraction"
    """JSON that a schema describes."""
    spans = "spans"
    """Passages quoted from a text, asked about label by label (data.form=extract)."""
    coding = "coding"
    """ICD-10-CM codes: one, or a JSON list."""
    qa = "qa"
    """A short free answer."""


class Metric(Enum):
    """What a verdict can be about: higher is better. docs/tasks.md says over what each averages."""

    exact_match = "exact_match"
    micro_f1 = "micro_f1"
    macro_f1 = "macro_f1"
    balanced_accuracy = "balanced_accuracy"
    in_scope_accuracy = "in_scope_accuracy"
    oos_recall = "oos_recall"
    precision_at_8 = "precision_at_8"
    category_f1 = "category_f1"
    chapter_f1 = "chapter_f1"
    f1 = "f1"
    aupr = "aupr"
    precision_at_80_recall = "precision_at_80_recall"
    cuad_aupr = "cuad_aupr"
    cuad_precision_at_80_recall = "cuad_precision_at_80_recall"
    cuad_precision_at_90_recall = "cuad_precision_at_90_recall"


class Scoring(Enum):
    """How a model arm answers. docs/tasks.md says what each measures."""

    generate = "generate"
    """Word by word, as a server does: also what does not parse and what is no label."""
    labels = "labels"
    """The likeliest of the known labels, each scored as a whole: knowledge, and a confidence that means a share."""


@dataclass
class TaskConfig:
    kind: TaskKind = MISSING
    metric: Metric = Metric.exact_match
    """The primary metric, which the verdict is about."""
    where: dict[str, str] = field(default_factory=dict)
    """Only the rows whose fields have these values, such as {language: de}. Empty: every row."""
    out_of_scope: str | None = None
    """kind=classification: the label of rows that have none of the others."""
    ranked: bool | None = None
    """kind=multi_label, coding: the answer's list begins with what is likeliest; precision_at_8 needs to know."""
    schema: str | None = None
    """kind=extraction: a JSON Schema beside the task, in conf/eval or CONF_DIR/eval."""
    package: str | None = None
    """kind=coding: the installed package that knows the valid codes."""


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
    scoring: Scoring = Scoring.generate
    batch_tokens: int = 16384
    """Most positions of one batch, of prompts and what follows them: new tokens, or the labels of one forward."""
    accept_inconclusive: bool = False
