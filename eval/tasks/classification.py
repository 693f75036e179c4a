"""Single-label classification: the answer is the label's text, compared as a whole."""

from functools import partial

from eval.metrics import classification as metrics
from eval.metrics import label_counts
from eval.tasks.task import Task, as_target
from finetune.config.eval import TaskConfig


def make(name: str, config: TaskConfig) -> Task:
    """Right where the answer equals the target."""
    scopes = ("in_scope_accuracy", "oos_recall") if config.out_of_scope is not None else ()
    return Task(
        name=name,
        metric=config.metric,
        read=as_target,
        rights=partial(label_counts.rights, read=metrics.single),
        measures=metrics.measures(config.out_of_scope),
        compared=("exact_match", "macro_f1", *scopes),
        where=config.where,
    )
