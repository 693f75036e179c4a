"""Medical coding: the answer is an ICD-10-CM code, or a JSON list of them, written with or without its point."""

from functools import partial

from eval.metrics import coding as metrics
from eval.metrics import label_counts
from eval.tasks.task import Task, as_target, required
from finetune.config.eval import TaskConfig
from finetune.packages import package_folder

TABLES = (".xml", ".txt")


def make(name: str, config: TaskConfig) -> Task:
    """Right where the answer holds every code of the target and no other. Raises MachineError without the package."""
    package = required(config.package, "package", config)
    folder = package_folder(package, f"eval.tasks.{name}.package") / "data"
    tables = [path for path in sorted(folder.glob("*")) if path.suffix in TABLES]
    return Task(
        name=name,
        metric=config.metric,
        read=as_target,
        rights=partial(label_counts.rights, read=metrics.coded),
        measures=metrics.measures(package, bool(config.ranked)),
        compared=("exact_match", "micro_f1", "macro_f1", "category_f1", "chapter_f1"),
        where=config.where,
        files={f"{package}/data/{path.name}": path for path in tables},
    )
