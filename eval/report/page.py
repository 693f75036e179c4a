"""report.html: one self-contained page, with labels and numbers and never a row's text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval import gate, stats
from eval.arms import ADAPTER, BASE, MAJORITY, SVM
from eval.inputs import Inputs
from eval.metrics.classification import label
from eval.predictions import Prediction, group_numbers, pair
from eval.report.summary import ArmPredictions
from finetune import pages
from finetune.artifacts import provenance
from finetune.config.eval import EvalConfig
from finetune.config.schema import RunConfig
from finetune.pages import Scale, scale_over

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MAX_LABELS = 20
NAMES = {
    BASE: ("Base", "the same 4-bit weights, adapter switched off"),
    ADAPTER: ("Adapter", "the trained adapter on those weights"),
    MAJORITY: ("Majority", "the most frequent training label, for every row"),
    SVM: ("TF-IDF + SVM", "a linear classifier, seconds on a CPU"),
}


def render(
    title: str,
    report: Mapping[str, Any],
    predictions: ArmPredictions,
    facts: Sequence[tuple[str, str]],
    config: EvalConfig,
    show_labels: bool,
) -> str:
    """The page of a report and its predictions, with the `facts` on where they come from.

    `show_labels` only where targets come from a set of labels: a free target may be private text.
    """
    deciding = gate.deciding(report, config)
    return pages.render(
        TEMPLATE,
        title=title,
        report=report,
        config=config,
        names=NAMES,
        deciding=deciding,
        passed=gate.passes(report["verdict"], config),
        floor=_floor(report, config),
        tasks=[_task(report, predictions, task, config) for task in config.tasks],
        show_labels=show_labels,
        facts=facts,
        min_groups=stats.MIN_GROUPS,
    )


def run_facts(inputs: Inputs, run: RunConfig) -> list[tuple[str, str]]:
    """Which runs, contents, seeds and library versions stand behind the numbers."""
    found = [
        (key, f"{item.manifest.name}/{item.manifest.run}, content {item.manifest.content}")
        for key, item in (("adapter", inputs.adapter), ("data", inputs.data), ("base", inputs.base))
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
            f"greedy, at most {run.eval.max_new_tokens} new tokens, {run.eval.batch_rows} rows a batch",
        ),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return [*found, *settings, ("versions", versions)]


def _task(
    report: Mapping[str, Any], predictions: ArmPredictions, task: str, config: EvalConfig
) -> dict[str, Any]:
    """Everything the page shows of one task."""
    found = {arm: [item for item in rows if item["task"] == task] for arm, rows in predictions.items()}
    comparisons = [item for item in report["comparisons"] if item["task"] == task]
    labels = _labels(found[BASE], found[ADAPTER])
    return {
        "name": task,
        "metric": config.tasks[task].metric.name,
        "arms": [_arm(arm, rows, report["arms"][arm][task], config) for arm, rows in found.items()],
        "unit": Scale(0.0, 1.0),
        "comparisons": comparisons,
        "scale": scale_over([item[key] for item in comparisons for key in ("ci_low", "ci_high")]),
        "flips": [_flips(found[arm], found[ADAPTER], arm) for arm in found if arm != ADAPTER],
        "labels": labels[:MAX_LABELS],
        "label_count": len(labels),
        "effective_groups": _effective_groups(found[ADAPTER]),
    }


def _arm(
    arm: str, rows: Sequence[Prediction], metrics: Mapping[str, float], config: EvalConfig
) -> dict[str, Any]:
    scores = np.array([item["score"] for item in rows])
    low, high = stats.share_interval(scores, group_numbers(rows), config)
    return {"name": arm, "metrics": metrics, "low": low, "high": high}


def _effective_groups(rows: Sequence[Prediction]) -> float:
    return stats.effective_groups(np.bincount(group_numbers(rows)).astype(float))


def _floor(report: Mapping[str, Any], config: EvalConfig) -> Mapping[str, Any]:
    """The adapter against the SVM on the primary metric: it stands beside the verdict, whoever wins."""
    metric = config.tasks[config.primary].metric.name
    found: Mapping[str, Any] = next(
        item
        for item in report["comparisons"]
        if (item["a"], item["task"], item["metric"]) == (SVM, config.primary, metric)
    )
    return found


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
