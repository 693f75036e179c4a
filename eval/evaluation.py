"""One evaluation: arms answer, tasks score, the report is written."""

from dataclasses import dataclass
from typing import Any

from eval import arms, forgetting, gate, lost
from eval.answer_cache import AnswerCache
from eval.answers import make_answering
from eval.arms import Answered, Rows
from eval.cost import cost, measured, seconds_of
from eval.delivered import Delivery
from eval.inputs import Inputs, require_unseen, require_usable
from eval.report import page, summary
from eval.report.answered import answered
from eval.report.examples import pick
from eval.tasks import Task, predict_all
from finetune.artifacts import Output
from finetune.config import RunConfig
from finetune.config.eval_checks import delivered
from finetune.console import say
from finetune.generate import Answer


@dataclass(frozen=True)
class Evaluated:
    """What was asked and answered: of all arms for every task, and of the models what it took."""

    train: Rows
    test: Rows
    vocabulary: frozenset[str]
    template: str
    """The hash of what rendered the prompts."""
    models: Answered
    answers: dict[str, list[Answer]]
    """Of all arms, the floors among them."""
    predictions: summary.ArmPredictions
    forgotten: dict[str, Any] | None
    """What base and adapter answered to other questions; not asked beside what was delivered."""


def evaluate(run: RunConfig, tasks: list[Task], inputs: Inputs, output: Output) -> dict[str, Any]:
    """Write predictions, report.json and report.html; the report."""
    found = _answer(run, tasks, inputs, output)
    for arm, rows in found.predictions.items():
        output.write_jsonl(f"predictions_{arm}.jsonl", rows)
    report = _report(run, tasks, inputs, found)
    output.write_json("report.json", report)
    facts, shown = page.run_facts(inputs, run), _shown(run, inputs, tasks[0], found)
    output.write_text("report.html", page.render(run.name, report, found.predictions, facts, run.eval, shown))
    output.counts = {"rows": len(found.test), "train_rows": len(found.train), **found.models.counts}
    output.facts = {"template": found.template, "verdict": report["verdict"]}
    output.overrides = gate.overrides(report)
    return report


def _answer(run: RunConfig, tasks: list[Task], inputs: Inputs, output: Output) -> Evaluated:
    train, test = inputs.rows("train"), inputs.rows("test")
    say(f"{summary.foreseen(test, run.eval)}; the floors learn from {len(train)} rows")
    require_unseen(run, inputs, train, test)
    require_usable(tasks, test)
    floors = arms.floors(run.eval, train, test)
    loaded = inputs.load(run.hardware)
    cache = AnswerCache.of(run.paths, run.name)
    vocabulary = inputs.vocabulary(train)
    answering = make_answering(run.eval, cache, loaded.renderer, test, vocabulary)
    models, template = arms.models(loaded, answering, train, test), loaded.renderer.template_hash()
    after = delivered(run.eval)
    forgotten = None if after else forgetting.measure(loaded, answering.generate, run.eval, run.paths)
    del loaded  # a device that holds the 4-bit base need not hold merged weights beside it
    for arm in after:
        models.add(arm.name, Delivery(run, inputs, answering, output).answers(arm, test, models.prompts))
    answers = {**models.answers, **floors}
    predictions = predict_all(tasks, test, answers)
    return Evaluated(train, test, vocabulary, template, models, answers, predictions, forgotten)


def _report(run: RunConfig, tasks: list[Task], inputs: Inputs, found: Evaluated) -> dict[str, Any]:
    """The content of report.json, section by section; the gate reads the others."""
    has_labels, asked = inputs.has_label_set(), (found.test, found.answers)
    report = summary.summarise(tasks, found.predictions, found.vocabulary, run.eval)
    report |= lost.sections(tasks, found.predictions, report["arms"], asked, run.eval, has_labels)
    report["forgetting"] = found.forgotten
    report |= answered(tasks, found.predictions, found.vocabulary, run.eval, has_labels)
    report["cost"] = _cost(run, inputs, found)
    report["gate"] = gate.judge(report, run.eval)
    return report


def _cost(run: RunConfig, inputs: Inputs, found: Evaluated) -> dict[str, Any]:
    seconds = {arm: seconds_of(answers) for arm, answers in found.models.answers.items()}
    own = measured(found.models.answers[arms.ADAPTER], found.models.prompts)
    return cost(inputs.adapter, seconds, own, run.hardware, run.eval.costs)


def _shown(run: RunConfig, inputs: Inputs, task: Task, found: Evaluated) -> page.Shown:
    """What the page may show: labels of a set, and of the primary task the examples that were asked for."""
    of_arm = {arm: summary.of_task(task, rows) for arm, rows in found.predictions.items()}
    asked = run.eval.examples if arms.BASE in of_arm else 0
    examples = pick(of_arm[arms.BASE], of_arm[arms.ADAPTER], found.test, asked) if asked else []
    return page.Shown(inputs.has_label_set(), examples)
