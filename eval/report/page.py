"""report.html: one self-contained page, with labels and numbers; a row's text only where it was asked for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import gate, stats
from eval.arms import ADAPTER, ADAPTER_FEW_SHOT, BASE, FEW_SHOT, MAJORITY, MERGED, SERVED, SVM
from eval.inputs import Inputs
from eval.metrics.classification import label
from eval.predictions import Prediction, group_numbers, pair
from eval.report import panels
from eval.report.examples import Example
from eval.report.summary import ArmPredictions, of_task
from eval.tasks import Task, make_tasks
from eval.tasks.task import LABEL_SETS
from finetune import pages, plots
from finetune.artifacts import provenance
from finetune.config.eval import EvalConfig, Scoring
from finetune.config.schema import RunConfig
from finetune.model import CHAMPION
from finetune.pages import Scale, scale_over

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MAX_LABELS = 20
WORDS = {"f1": "F1", "cuad": "CUAD", "aupr": "AUPR", "oos": "out-of-scope"}
"""Words of metric names that are not written as they are said."""
SECTIONS = ("gate", "slices", "slices_too_small", "worst_slice", "calibration", "forgetting", "cost")
"""Of report.json, which a report may lack."""
NAMES = {
    BASE: ("Base", "the same 4-bit weights, adapter switched off"),
    FEW_SHOT: ("Base + examples", "the same, with training rows like the question in its prompt (BM25)"),
    ADAPTER: ("Adapter", "the trained adapter on those weights"),
    ADAPTER_FEW_SHOT: ("Adapter + examples", "the adapter, with the same examples in its prompt"),
    CHAMPION: ("Champion", "the adapter that eval.against names"),
    MAJORITY: ("Majority", "the most frequent training label, for every row"),
    MERGED: ("Merged", "the exported weights in bf16, without the 4-bit base"),
    SERVED: ("Served", "the endpoint, asked in messages as any client asks it"),
    SVM: ("TF-IDF + SVM", "a linear classifier, seconds on a CPU"),
}


@dataclass(frozen=True)
class Shown:
    """What of the rows may stand on the page."""

    labels: bool
    """Only where targets come from a set of labels: a free target may be private text."""
    examples: Sequence[Example] = ()
    """Rows whose text the page quotes under a banner that says so."""


def render(
    title: str,
    report: Mapping[str, Any],
    predictions: ArmPredictions,
    facts: Sequence[tuple[str, str]],
    config: EvalConfig,
    shown: Shown,
) -> str:
    """The page of a report and its predictions, with the `facts` on where they come from."""
    deciding = gate.deciding(report, config)
    tasks = [_task(report, predictions, task, config, shown) for task in make_tasks(config)]
    return pages.render(
        TEMPLATE,
        title=title,
        report={**dict.fromkeys(SECTIONS), **report},
        config=config,
        name_of=lambda arm: NAMES.get(arm, (arm.replace("_", " ").capitalize(), ""))[0],
        note_of=lambda arm: NAMES.get(arm, ("", ""))[1],
        deciding=deciding,
        passed=(report.get("gate") or {}).get("passed"),
        floor=_floor(report, config),
        tasks=tasks,
        overview=_overview(tasks, deciding),
        contents=_contents(report, tasks, shown),
        shown=shown,
        forgetting=panels.forgotten(report),
        title_of=title_of,
        heading_of=lambda name: title_of(name)[:1].upper() + title_of(name)[1:],
        facts=facts,
        min_groups=stats.MIN_GROUPS,
        plots=plots,
        amount=pages.amount,
        duration=_duration,
    )


def run_facts(inputs: Inputs, run: RunConfig) -> list[tuple[str, str]]:
    """Which runs, contents, seeds and library versions stand behind the numbers."""
    found = [
        (key, f"{item.manifest.name}/{item.manifest.run}, content {item.manifest.content}")
        for key, item in inputs.named()
    ]
    train, model = inputs.adapter.manifest.config["train"], inputs.model()
    settings = [
        (
            "base model",
            f"{model.base.repo or model.name}, {model.quantisation.name}, licence {model.licence}",
        ),
        ("training seed", str(train["seed"])),
        ("bootstrap", f"{run.eval.resamples} draws of whole groups, seed {run.eval.seed}"),
        (
            "decoding",
            f"{_decoding(run.eval)}, {run.eval.batch_rows} rows a batch",
        ),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return [*found, *settings, ("versions", versions)]


def _decoding(config: EvalConfig) -> str:
    if config.scoring is Scoring.labels:
        return "the likeliest of the known labels, each scored whole"
    return f"greedy, at most {config.max_new_tokens} new tokens"


def title_of(metric: str) -> str:
    """A metric's name in words."""
    return " ".join(WORDS.get(word, word) for word in metric.split("_")).replace(" F1", "-F1")


def _task(
    report: Mapping[str, Any], predictions: ArmPredictions, task: Task, config: EvalConfig, shown: Shown
) -> dict[str, Any]:
    """Everything the page shows of one task."""
    found = {arm: of_task(task, rows) for arm, rows in predictions.items()}
    comparisons = [item for item in report["comparisons"] if item["task"] == task.name]
    has_labels = config.tasks[task.name].kind in LABEL_SETS and BASE in found
    labels = _labels(found[BASE], found[ADAPTER]) if has_labels else []
    return {
        "name": task.name,
        "metric": task.metric.name,
        "averages": {name: item.averages for name, item in task.measures.items()},
        "compared": list(dict.fromkeys(item["metric"] for item in comparisons)),
        "arms": [_arm(arm, rows, report["arms"][arm][task.name], config) for arm, rows in found.items()],
        "unit": Scale(0.0, 1.0),
        "comparisons": comparisons,
        "scale": scale_over([item[key] for item in comparisons for key in ("ci_low", "ci_high")]),
        "flips": [_flips(found[arm], found[ADAPTER], arm) for arm in found if arm != ADAPTER],
        "labels": labels[:MAX_LABELS],
        "label_count": len(labels),
        "effective_groups": _effective_groups(found[ADAPTER]),
        "slices": panels.sliced(report, task.name, shown.labels),
        "matrix": panels.matrix(report, task.name),
        "calibration": panels.calibrated(report, task.name),
        "lengths": panels.long(report, task.name),
        "drift": panels.drifted(report, task.name),
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < 10 else pages.duration(seconds / 3600)


def _contents(
    report: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], shown: Shown
) -> list[tuple[str, str]]:
    """The sections that are there, by the id of their heading; of several tasks those of the first."""
    first = tasks[0]
    there = {
        ("arms", "Arms"): True,
        ("gains", "Gains"): True,
        ("slices", "Slices"): first["slices"],
        ("changes", "Row by row"): True,
        ("confusion", "Confusion"): first["matrix"] and shown.labels,
        ("calibration", "Calibration"): first["calibration"],
        ("answers", "Form of answers"): first["lengths"] or first["drift"],
        ("examples", "Examples"): shown.examples,
        ("forgetting", "Forgetting"): report.get("forgetting"),
        ("cost", "Cost"): report.get("cost"),
        ("sources", "Provenance"): True,
        ("limits", "Limits"): True,
    }
    return [entry for entry, found in there.items() if found]


def _overview(
    tasks: Sequence[Mapping[str, Any]], deciding: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], Scale] | None:
    """Where there are several tasks: on each one's own metric the adapter against the arm that decides."""
    found = [
        item
        for task in tasks
        for item in task["comparisons"]
        if (item["a"], item["b"], item["metric"]) == (deciding["a"], deciding["b"], task["metric"])
    ]
    if len(found) < 2:
        return None
    return found, scale_over([item[key] for item in found for key in ("ci_low", "ci_high")])


def _arm(
    arm: str, rows: Sequence[Prediction], metrics: Mapping[str, float | None], config: EvalConfig
) -> dict[str, Any]:
    scores = np.array([item["score"] for item in rows])
    low, high = stats.share_interval(scores, group_numbers(rows), config)
    # the t interval of few groups may end beyond what a share can be
    return {"name": arm, "metrics": metrics, "low": max(0.0, low), "high": min(1.0, high)}


def _effective_groups(rows: Sequence[Prediction]) -> float:
    return stats.effective_groups(np.bincount(group_numbers(rows)).astype(float))


def _floor(report: Mapping[str, Any], config: EvalConfig) -> Mapping[str, Any] | None:
    """The adapter against the SVM on the primary metric: it stands beside the verdict, whoever wins.

    None where the SVM has no such metric.
    """
    metric = config.tasks[config.primary].metric.name
    found = (
        item
        for item in report["comparisons"]
        if (item["a"], item["task"], item["metric"]) == (SVM, config.primary, metric)
    )
    return next(found, None)


def _flips(a: Sequence[Prediction], b: Sequence[Prediction], arm: str) -> dict[str, Any]:
    """How many rows the adapter answers right where the other arm was wrong, and the reverse."""
    pairs = pair(a, b)
    outcomes = [
        (left["score"] >= 1, right["score"] >= 1) for left, right in zip(pairs.a, pairs.b, strict=True)
    ]
    return {
        "arm": arm,
        "fixed": outcomes.count((False, True)),
        "broke": outcomes.count((True, False)),
        "both": outcomes.count((True, True)),
        "neither": outcomes.count((False, False)),
    }


def _labels(base: Sequence[Prediction], adapter: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Rows and share of right answers by gold label, most frequent first."""
    pairs = pair(base, adapter)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for left, right in zip(pairs.a, pairs.b, strict=True):
        scores[label(left["gold"])].append((left["score"], right["score"]))
    ordered = sorted(scores.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "label": name,
            "n": len(found),
            "base": sum(before for before, _ in found) / len(found),
            "adapter": sum(after for _, after in found) / len(found),
        }
        for name, found in ordered
    ]
