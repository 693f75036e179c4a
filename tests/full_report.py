"""A report with every section in the contract's form, as an evaluation of clause typing would leave it.

Arms, comparisons, lengths, confusion and cost are computed; what other modules compute stands here as literals.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from eval.cost import Measured, cost
from eval.predictions import Prediction
from eval.report import page, summary
from eval.report.answered import answered
from eval.report.examples import pick
from eval.tasks import make_tasks
from finetune.config.eval import CostsConfig, EvalConfig, Metric, TaskConfig, TaskKind
from finetune.config.plan import Device, HardwareConfig

CANARY = "canary-7f3a"
LABELS = (
    "Governing Law",
    "Anti-Assignment",
    "Cap On Liability",
    "License Grant",
    "Audit Rights",
    "Termination For Convenience",
    "Post-Termination Services",
    "Exclusivity",
    "Renewal Term",
    "Insurance",
    "Revenue/Profit Sharing",
    "Minimum Commitment",
    "Non-Transferable License",
    "Ip Ownership Assignment",
    "Change Of Control",
    "Uncapped Liability",
)
NEIGHBOURS = {2: 15, 15: 2, 3: 12, 12: 3, 1: 14, 14: 1, 5: 8, 8: 5, 7: 11}
"""Labels that are taken for each other."""
RIGHT = {"base": 0.41, "few_shot": 0.63, "adapter": 0.79, "majority": 0.0, "svm": 0.68}
ROWS, GROUPS = 620, 61


@dataclass(frozen=True)
class Full:
    """A report and what its page is made from."""

    report: dict[str, Any]
    predictions: dict[str, list[Prediction]]
    rows: list[dict[str, Any]]
    config: EvalConfig

    def html(self, examples: int = 0, labels: bool = True) -> str:
        """The page, with so many examples of each kind."""
        base, adapter = (
            [item for item in self.predictions[arm] if item["task"] == self.config.primary]
            for arm in ("base", "adapter")
        )
        found = pick(base, adapter, self.rows, examples)
        facts = [
            ("adapter", f"clauses_llama8b/5f0c21d9, content {'9b' * 32}"),
            ("data", f"cuad_clauses/d21f612d, content {'4e' * 32}"),
            ("base model", "meta-llama/Llama-3.1-8B-Instruct, nf4, licence LicenseRef-Llama-3.1-Community"),
            ("training seed", "0"),
            ("decoding", "greedy, at most 32 new tokens, 32 rows a batch"),
        ]
        shown = page.Shown(labels, found)
        return page.render("clauses_llama8b", self.report, self.predictions, facts, self.config, shown)


def full_report() -> Full:
    """620 rows of 16 labels in 61 contracts, whose text and groups are canaries; the adapter wins."""
    tasks = {"clause": TaskConfig(TaskKind.classification, Metric.macro_f1)}
    config = EvalConfig(tasks=tasks, primary="clause", resamples=500, examples=2)
    generator = np.random.default_rng(7)
    shares = 1 / (1 + np.arange(len(LABELS)))
    gold = generator.choice(len(LABELS), ROWS, p=shares / shares.sum())
    predictions = {arm: _answers(arm, gold, right, generator) for arm, right in RIGHT.items()}
    made, vocabulary = make_tasks(config), frozenset(LABELS)
    report = summary.summarise(made, predictions, vocabulary, config)
    report |= answered(made, predictions, vocabulary, config, True)
    report |= {"cost": priced(CostsConfig(2.4, 0.6, 2.4, "EUR")), **_written_elsewhere(predictions)}
    rows = [
        {
            "id": f"row{index}",
            "messages": [{"role": "user", "content": f"{CANARY} clause {index}, <b>bold</b>."}],
        }
        for index in range(ROWS)
    ]
    return Full(report, predictions, rows, config)


def priced(costs: CostsConfig, device: Device = Device.cuda, seconds: float | None = 186.0) -> dict[str, Any]:
    """The cost of 6 h 12 min of training and of 620 items that took `seconds`, 214.5 tokens in and 6 out."""
    manifest = SimpleNamespace(seconds=22320.0, facts={"hardware": "a100_80gb"})
    adapter: Any = SimpleNamespace(
        manifest=manifest, path=lambda name: SimpleNamespace(is_file=lambda: False)
    )
    hardware = HardwareConfig("cpu" if device is Device.cpu else "a100_80gb", device)
    own = Measured(ROWS, seconds, 214.5, 6.0)
    return cost(adapter, {"base": 402.0, "adapter": seconds}, own, hardware, costs)


def _answers(arm: str, gold: Any, right: float, generator: np.random.Generator) -> list[Prediction]:
    found = []
    for index, place in enumerate(gold):
        said = _said(arm, int(place), right, generator)
        hit = said == LABELS[place]
        sure = generator.beta(8, 2) if hit else generator.beta(4 if arm == "adapter" else 7, 3)
        found.append(
            Prediction(
                id=f"row{index}",
                group=f"{CANARY}-{index % GROUPS}",
                document=None,
                task="clause",
                arm=arm,
                gold=LABELS[place],
                prediction=said,
                raw=said,
                score=float(hit),
                confidence=float(sure) if arm in ("base", "few_shot", "adapter") else None,
                label_scores=None,
            )
        )
    return found


def _said(arm: str, place: int, right: float, generator: np.random.Generator) -> str:
    if arm == "majority":
        return LABELS[0]
    if generator.random() < right:
        return LABELS[place]
    if arm == "base" and generator.random() < 0.4:
        return f"The clause is about {CANARY} and the rights of the party" + " that grants it" * int(
            generator.integers(9)
        )
    other = NEIGHBOURS.get(place, int(generator.integers(len(LABELS))))
    return LABELS[other if other != place else 0]


def _written_elsewhere(predictions: dict[str, list[Prediction]]) -> dict[str, Any]:
    return {
        "reference": "few_shot",
        "gate": _gate(),
        "calibration": {"clause": {arm: _calibration(rows) for arm, rows in predictions.items()}},
        "slices": [*_slices("length", LENGTHS), *_slices("label", BY_LABEL), *_slices("language", LANGUAGES)],
        "slices_too_small": [{"task": "clause", "by": "label", "slices": 11, "rows": 204}],
        "worst_slice": _slices("label", BY_LABEL)[1],
        "drift": {"clause": dict(zip(DRIFT, map(_drift, DRIFT.values()), strict=True))},
        "forgetting": {"suites": _suites()},
    }


LENGTHS = [
    ("40 to 212 characters", 155, 0.44, 0.81, 0.04),
    ("213 to 388 characters", 155, 0.43, 0.80, 0.05),
    ("389 to 641 characters", 156, 0.40, 0.78, 0.05),
    ("642 to 2990 characters", 154, 0.37, 0.70, 0.07),
]
BY_LABEL = [
    ("Cap On Liability", 92, 0.40, 0.71, 0.08),
    ("Uncapped Liability", 31, 0.55, 0.42, 0.17),
    ("Governing Law", 179, 0.52, 0.93, 0.05),
    ("License Grant", 70, 0.38, 0.66, 0.11),
    ("Audit Rights", 44, 0.45, 0.84, 0.12),
]
LANGUAGES = [("de", 118, 0.31, 0.72, 0.09), ("en", 502, 0.43, 0.80, 0.04)]
DRIFT = {
    "base": (31, 15, 1.0, 0.082, 0.64),
    "few_shot": (15, 15, 1.0, 0.006, 0.97),
    "adapter": (15, 15, 1.0, 0.0, 1.0),
    "majority": (13, 15, 1.0, 0.0, 1.0),
    "svm": (15, 15, 1.0, 0.0, 1.0),
}


def _slices(by: str, values: list[tuple[str, int, float, float, float]]) -> list[dict[str, Any]]:
    found = []
    for name, rows, before, after, half in values:
        delta = after - before
        verdict = "better" if delta > half else "worse" if delta < -half else "inconclusive"
        common = {
            "task": "clause",
            "by": by,
            "slice": name,
            "a": "base",
            "b": "adapter",
            "metric": "exact_match",
        }
        numbers = {"n": rows, "n_groups": min(GROUPS, rows // 3), "value_a": before, "value_b": after}
        gap = {"delta": delta, "ci_low": delta - half, "ci_high": delta + half}
        found.append({**common, **numbers, **gap, "p": 0.01, "p_adjusted": 0.02, "verdict": verdict})
    return found


def _drift(values: tuple[float, ...]) -> dict[str, float]:
    names = ("median_characters", "median_gold_characters", "parsed", "cut", "in_vocabulary")
    return dict(zip(names, values, strict=True))


def _gate() -> dict[str, Any]:
    common = {"task": "clause", "b": "adapter", "passed": True}
    over = {"kind": "superiority", "metric": "macro_f1", "delta": 0.16, "ci_low": 0.11, "ci_high": 0.21}
    kept = {
        "kind": "non_inferiority",
        "metric": "exact_match",
        "delta": 0.38,
        "ci_low": 0.33,
        "ci_high": 0.43,
    }
    return {
        "passed": True,
        "checks": [
            {**common, **over, "a": "few_shot", "margin": 0.02, "verdict": "inconclusive"},
            {**common, **kept, "a": "base", "margin": 0.02, "verdict": "not inferior"},
        ],
    }


def _suites() -> list[dict[str, Any]]:
    common = {
        "metric": "accuracy",
        "margin": 0.05,
        "n_groups": 40,
        "verdict": "inconclusive",
        "skipped": None,
    }
    kept = {
        "n": 240,
        "value_base": 0.612,
        "value_adapter": 0.604,
        "delta": -0.008,
        "ci_low": -0.031,
        "ci_high": 0.015,
    }
    open_ = {
        "n": 96,
        "value_base": 0.417,
        "value_adapter": 0.385,
        "delta": -0.032,
        "ci_low": -0.081,
        "ci_high": 0.017,
    }
    lost = {
        "n": 200,
        "value_base": 0.31,
        "value_adapter": 0.215,
        "delta": -0.095,
        "ci_low": -0.15,
        "ci_high": -0.04,
    }
    free = {**kept, "n": 120, "margin": None, "not_inferior": None}
    absent = dict.fromkeys([*kept, "metric", "margin", "n_groups", "verdict", "not_inferior"])
    return [
        {"name": "own_knowledge", "kind": "choice", **common, **kept, "not_inferior": True},
        {"name": "own_instructions", "kind": "instructions", **common, **open_, "not_inferior": False},
        {"name": "gsm8k", "kind": "answer", **common, **lost, "not_inferior": False},
        {"name": "bbh", "kind": "answer", **common, **free},
        {"name": "mmlu", "kind": "choice", **absent, "skipped": "mmlu_570.jsonl is not there"},
    ]


def _calibration(rows: list[Prediction]) -> dict[str, Any] | None:
    """Ten bins of about equal mass and the accuracy of the surest; none where an arm has no confidence."""
    if rows[0]["confidence"] is None:
        return None
    ordered = sorted(rows, key=lambda item: item["confidence"] or 0.0)
    sure = np.array([item["confidence"] for item in ordered])
    right = np.array([item["score"] for item in ordered])
    parts = np.array_split(np.arange(len(rows)), 10)
    bins = [
        {
            "low": float(sure[part[0]]),
            "high": float(sure[part[-1]]),
            "confidence": float(sure[part].mean()),
            "accuracy": float(right[part].mean()),
            "n": len(part),
        }
        for part in parts
    ]
    error = sum(item["n"] * abs(item["accuracy"] - item["confidence"]) for item in bins) / len(rows)
    selective = [
        {
            "coverage": share,
            "accuracy": float(right[-round(share * len(rows)) :].mean()),
            "threshold": float(sure[-round(share * len(rows))]),
        }
        for share in (0.8, 0.9, 0.95, 1.0)
    ]
    return {
        "ece": error,
        "brier": float(((sure - right) ** 2).mean()),
        "n": len(rows),
        "bins": bins,
        "selective": selective,
    }
