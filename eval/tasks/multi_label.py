"""Multi-label classification: the answer is a JSON list of labels, whose order and repetitions do not count."""

from functools import partial

from eval.metrics import label_counts
from eval.metrics import multi_label as metrics
from eval.tasks.task import Task, as_target
from finetune.config.eval import TaskConfig


def make(name: str, config: TaskConfig) -> Task:
    """Right where the answer holds every label of the target and no other."""
    return Task(
        name=name,
        metric=config.metric,
        read=as_target,
        rights=partial(label_counts.rights, read=metrics.several),
        measures=metrics.measures(bool(config.ranked)),
        compared=("micro_f1", "macro_f1"),
        where=config.where,
    )
