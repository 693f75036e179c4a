"""Settings of the evaluation: the tasks, what decides, how it is measured."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import II, MISSING


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


class Arm(Enum):
    """Who answers the test rows. The models are one 4-bit base; a floor needs no GPU."""

    base = "base"
    few_shot = "few_shot"
    """The base with examples from the training rows in its prompt: what retrieval alone gives."""
    adapter = "adapter"
    adapter_few_shot = "adapter_few_shot"
    majority = "majority"
    svm = "svm"
    merged = "merged"
    """An export of the adapter: merged weights in bf16, without the 4-bit base."""
    served = "served"
    """The endpoint at serve.url, asked in messages as any client asks it."""


DELIVERED = [Arm.merged, Arm.served]
"""What there is once an adapter has left: compared with the adapter alone, in a report without a gate."""
GATED = [arm for arm in Arm if arm not in DELIVERED]
"""What is asked unless a config says otherwise: there is no export before a gate has passed."""


class Engine(Enum):
    """What computes the answers of merged weights; arms on the 4-bit base are always transformers'."""

    transformers = "transformers"
    vllm = "vllm"
    """From the environment that `make setup-serve` makes. Generates only."""


class Reference(Enum):
    """Whom the adapter must beat."""

    auto = "auto"
    """Each of base, few_shot and majority, and so the best of them."""
    base = "base"
    few_shot = "few_shot"
    majority = "majority"
    svm = "svm"
    champion = "champion"
    """The adapter that eval.against names."""


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


class SliceBy(Enum):
    """What test rows are told apart by; docs/lost.md."""

    label = "label"
    length = "length"
    source = "source"
    language = "language"
    time = "time"


class Suite(Enum):
    """What is asked before and after, to see what was forgotten. The first two come with Hallmark."""

    own_instructions = "own_instructions"
    own_knowledge = "own_knowledge"
    ifeval = "ifeval"
    mmlu = "mmlu"
    bbh = "bbh"
    gsm8k = "gsm8k"


@dataclass
class ForgettingConfig:
    """General abilities of base and adapter, which the task does not train; docs/lost.md."""

    suites: list[Suite] = field(default_factory=lambda: [Suite.own_instructions, Suite.own_knowledge])
    """Empty: nothing is asked."""
    folder: str | None = None
    """Relative to paths.data_root, with ifeval_540.jsonl, mmlu_570.jsonl, bbh_270.jsonl, gsm8k_200.jsonl."""
    rows: int | None = None
    """At most so many items of a suite, as evenly from its subjects as they allow, drawn by eval.seed. None: all."""
    max_new_tokens: int = 512
    """Suites that ask for less generate less."""
    margins: dict[str, float] = field(default_factory=dict)
    """By suite: a loss of this share must be excluded, such as {mmlu: 0.02}. Those not named are reported only."""


@dataclass
class CostsConfig:
    """Your prices, in one currency; there is no built-in one, and without a price no cost is given. docs/report.md."""

    price_per_hour: float | None = II("plan.price_per_gpu_hour")
    """Of the machine that trains, evaluates and would serve."""
    api_input_per_million: float | None = II("plan.api_price_per_million_tokens")
    """What an API would take for a million tokens of prompts."""
    api_output_per_million: float | None = II("plan.api_price_per_million_tokens")
    """The same for answers."""
    currency: str | None = None
    """Only a name beside the amounts."""
    server_hours_per_month: float = 730.0
    """Hours that a self-hosted server is paid for, busy or not."""


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
    slices: list[SliceBy] = field(default_factory=lambda: list(SliceBy))
    """What slices to look at; those that the rows do not have are not there."""
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    arms: list[Arm] = field(default_factory=lambda: list(GATED))
    engine: Engine = Engine.transformers
    """Of the arm `merged`."""
    reference: Reference = Reference.auto
    margins: dict[str, float] = field(default_factory=dict)
    """Abilities that must not fall: the loss against the base that must be excluded, by task (its own metric) or
    task.metric, as {intent: 0.02, intent.oos_recall: 0.05}."""
    against: str | None = None
    """Run id of another adapter of this experiment, such as the one in service: one more arm, `champion`."""
    shots: int = 3
    """Examples in a few-shot prompt, retrieved for each row by BM25."""
    shot_tokens: int = 1024
    """Tokens that a prompt's examples may take together; the weakest are dropped first."""
    costs: CostsConfig = field(default_factory=CostsConfig)
    examples: int = 0
    """Rows of each kind (broke, fixed, both wrong) that report.html quotes whole. They are private: 0 quotes none."""
