"""The names under which wandb gets numbers, fixed, so that runs compare. docs/guide.md explains them."""

import re
from collections.abc import Iterable
from enum import Enum


class JobType(Enum):
    """The stages that open a wandb run."""

    prepare = "prepare"
    plan = "plan"
    preflight = "preflight"
    train = "train"
    eval = "eval"
    export = "export"
    serve = "serve"


HISTORY = (
    "train/loss",
    "train/lr",
    "train/grad_norm",
    "train/tokens",
    "train/trained_tokens",
    "train/tokens_per_s",
    "train/tokens_per_s_total",
    "train/mfu",
    "train/peak_memory_gib",
    "train/peak_memory_over_plan",
    "val/loss",
    "val/exact_match",
)
"""Of the training run, at optimizer steps."""

SUMMARY = {
    JobType.prepare: (
        "prepare/rows_train",
        "prepare/rows_val",
        "prepare/rows_test",
        "prepare/read",
        "prepare/dropped",
        "prepare/groups",
        "prepare/leak_max_jaccard",
        "prepare/leak_max_coverage",
        "prepare/leaked_rows_of_random_split",
    ),
    JobType.plan: (
        "plan/verdict",
        "plan/peak_allocated_gib",
        "plan/device_gib",
        "plan/limit_gib",
        "plan/tokens_per_s",
        "plan/run_hours",
    ),
    JobType.preflight: (
        "preflight/peak_gib",
        "preflight/memory_error",
        "preflight/tokens_per_s",
        "preflight/speed_error",
    ),
    JobType.train: ("count/<count>",),
    JobType.eval: (
        "eval/verdict",
        "eval/<task>/<arm>/<metric>",
        "eval/<task>/<arm>/<ece, brier, median_characters, parsed or cut>",
        "eval/worst_slice/delta",
        "eval/slices/<worse or shown>",
        "eval/forgetting/<suite>/<value_base, value_adapter, delta, ci_low, ci_high or p>",
        "eval/<task>/<arm>-<arm>/<metric>/<delta, ci_low, ci_high, p or mde>",
        "eval/table/arms",
        "eval/table/comparisons",
        "eval/table/slices",
    ),
    JobType.export: (
        "export/passed",
        "export/kl",
        "export/kl_floor",
        "export/top1",
        "export/top1_floor",
        "export/fp32_kl",
        "export/fp32_top1",
        "export/greedy_equal",
        "export/positions",
        "export/tensors_changed",
    ),
    JobType.serve: (
        "serve/passed",
        "serve/prompts",
        "serve/greedy_equal",
        "serve/first_divergence_margin",
        "serve/task_delta",
        "serve/p50_s",
        "serve/p95_s",
        "serve/tokens_per_s",
    ),
}
"""Of a stage as a whole; `<…>` stands for a name of the run."""


def unknown(names: Iterable[str], job_type: JobType) -> set[str]:
    """Those that are neither a summary of this job type nor, of a training run, in its history."""
    known = [*SUMMARY[job_type], *(HISTORY if job_type is JobType.train else ())]
    patterns = [re.compile(re.sub(r"<[^>]+>", "[^/]+", name)) for name in known]
    return {name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)}
