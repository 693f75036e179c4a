"""`make show-mask CONF=x`: a few rows as the model will learn them, and what all of them are as tokens."""

import sys

from rich.console import Console

from finetune.config import RunConfig
from finetune.console import complain
from finetune.errors import ConfigError
from finetune.mask_view import chosen, show_report, show_rows
from finetune.model import read_renderer
from finetune.plan.stage import gather
from finetune.stage import stage
from finetune.token_report import examine_rows, require_sound
from finetune.training_data import open_data


def show(run: RunConfig) -> None:
    """Print rows and report to standard output alone; refused (exit 3) like the training of these rows."""
    data = open_data(run)
    tokenizer = gather(run, data).tokenizer
    if tokenizer is None:
        raise ConfigError(
            f"the tokenizer of model={run.model.name} is not here; run `make fetch-base CONF=…`"
        )
    renderer = read_renderer(tokenizer, run.model)
    found, report = examine_rows(data.rows(), renderer, run.train.max_tokens)
    rows = chosen(found, run.show)
    console = Console(highlight=False, soft_wrap=True)
    complain("private text follows, on standard output alone: it goes into no log and no file")
    show_rows(rows, renderer, run.show, console)
    show_report(report, console)
    require_sound(report, run.train)


if __name__ == "__main__":
    sys.exit(stage("show-mask", show, sys.argv[1:]))
