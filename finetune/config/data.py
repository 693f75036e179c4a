"""Settings of the data: where it comes from, how it becomes rows, how rows are joined and split."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class SourceKind(Enum):
    table = "table"
    documents = "documents"
    cuad = "cuad"
    clinc150 = "clinc150"
    icd10 = "icd10"
    licence_notices = "licence_notices"


class RowForm(Enum):
    whole = "whole"
    """Each text as it is, with its target: classification, coding, question answering."""
    extract = "extract"
    """A row for each window of a text and each label: the passages of that label, quoted."""
    clauses = "clauses"
    """A row for each annotated passage: its labels."""


class CodeLevel(Enum):
    code = "code"
    """The billable code, such as E11.9, of terms whose code has several."""
    chapter = "chapter"
    """The chapter's title, such as "Endocrine, nutritional and metabolic diseases"."""


@dataclass
class SourceConfig:
    kind: SourceKind = MISSING
    path: str | None = None
    """A file or folder relative to paths.data_root, or a URL such as s3://bucket/folder."""
    package: str | None = None
    """kind=licence_notices, icd10: the installed package that holds the data."""
    level: CodeLevel | None = None
    """kind=icd10: what is asked of a term. None: code."""
    min_words: int | None = None
    max_words: int | None = None
    url_from_env: str | None = None
    """kind=table: name of the environment variable with the database's SQLAlchemy URL, instead of `path`."""
    query: str | None = None
    """kind=table with url_from_env: the SELECT whose columns are the fields, with an ORDER BY."""
    text_field: str | None = None
    question_field: str | None = None
    """Its text replaces {question} in data.prompt."""
    target_field: str | None = None
    target_separator: str | None = None
    """Several labels in one string, such as `a;b`: the target becomes a list."""
    group_field: str | None = None
    """Rows with the same value here stay on one side of the split (a contract, a patient)."""
    time_field: str | None = None
    """An ISO date or time: the split is by time, the newest texts are the test set."""
    language_field: str | None = None
    pattern: str | None = None
    """kind=documents: which files of the folder, such as `**/*.pdf`. None: every file."""
    annotations: str | None = None
    """kind=documents: a table with a row an annotation. None: the target is the name of the file's folder."""
    file_field: str | None = None
    """kind=documents: the annotations' column that names the file."""
    quote_field: str | None = None
    """kind=documents: the annotations' column with the quoted passage; target_field is then its label."""


@dataclass
class LimitsConfig:
    """What one file may cost before it is dropped as hostile: files are read in a process of their own."""

    file_mib: int = 200
    seconds: int = 60
    memory_mib: int = 2048
    pages: int = 5000
    characters: int = 20_000_000
    """Of extracted text: an archive of 1 MB can unpack to gigabytes."""


@dataclass
class WindowConfig:
    max_chars: int = 6000
    """Longer texts are asked about window by window (form=extract)."""
    overlap_chars: int = 1500
    """A passage of up to this length stands whole in at least one window."""
    keep_empty_fraction: float = 0.1
    """Of the training rows without an answer, this share is kept; evaluation keeps all."""


@dataclass
class NearDuplicateConfig:
    shingle_words: int = 5
    jaccard: float = 0.7
    """Texts at least this similar are joined before the split (eval_data B4)."""
    max_shingle_fraction: float | None = None
    """Shingles in more than this share of the texts are boilerplate, left out of the comparison. None: keep all."""


@dataclass
class ContaminationConfig:
    references: list[str] = field(default_factory=list)
    """Held-out or public sets (.jsonl, .txt) relative to paths.data_root; what repeats them is not trained on."""
    ngram_words: int = 13
    """Runs of min(this, 0.8 of the text's words): plain 13-grams see nothing of short queries (eval_data B5)."""
    drop_coverage: float = 0.5
    """Share of a held-out text's n-grams found in training text from which it counts as leaked."""
    drop_words: int = 100
    """Rows of val and test are dropped for it from so many words on: in a shorter text one shared phrase decides,
    and dropping it would take the easy rows out of the test set. It is listed for review."""
    review_coverage: float = 0.2
    """From here on a row is listed for review."""
    boilerplate_fraction: float = 0.05
    """N-grams in more than this share of the training texts say nothing."""


@dataclass
class SplitConfig:
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    max_component_fraction: float = 0.2
    """A larger component cannot be placed fairly: the stage stops and says so."""
    test_sha256: str | None = None
    """Freezes the test set: the stage stops where its rows have another hash than this one."""


@dataclass
class DataConfig:
    name: str = MISSING
    licence: str = MISSING
    teacher_licence: str | None = None
    """The licence of a model that wrote these data, in whole or part. None: people or programs wrote them."""
    attribution: str = ""
    seed: int = 0
    source: SourceConfig = field(default_factory=SourceConfig)
    system: str = ""
    """System message of every prompt; empty: none."""
    prompt: str = "{text}"
    """User message; {text} stands for the text, {question} for the question or the label asked about."""
    form: RowForm = RowForm.whole
    labels: list[str] | None = None
    """The closed set of targets; a row with another target is refused. None: any target.
    form=extract, clauses: the labels asked about; others are counted."""
    only_labels: list[str] | None = None
    """Of form=whole and clauses only rows with one of these targets; the others are left out, with a count."""
    min_label_rows: int = 1
    """Targets with fewer rows are dropped, with a count: nothing can be learned or measured on them."""
    max_rows: int | None = None
    """Keep this many rows, drawn by seed, and count the rest. None: all."""
    max_dropped_fraction: float = 0.5
    """Above this share of documents dropped the stage stops (exit 3)."""
    max_lost_span_fraction: float = 0.05
    """Above this share of marked passages that no row can show the stage stops (exit 3)."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    near_duplicates: NearDuplicateConfig = field(default_factory=NearDuplicateConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)

    def has_label_set(self) -> bool:
        """Whether targets come from a set of labels, which reports may show; free targets may be private text."""
        return self.labels is not None or self.min_label_rows > 1
