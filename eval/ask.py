"""`make ask CONF=x FILE=prompts.txt`: one's own prompts answered by base and adapter, side by side."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from eval.answers import Answering
from eval.arms import ADAPTER, BASE
from eval.inputs import open_inputs
from eval.own_prompts import around, prompt_ids, read_prompts
from eval.side_by_side import Answered, show, summary
from finetune.artifacts.atomic import replace_text
from finetune.config import RunConfig, recorded
from finetune.config.data import DataConfig
from finetune.console import complain, say
from finetune.errors import ConfigError
from finetune.model import context_tokens, read_renderer
from finetune.stage import stage


def ask(run: RunConfig) -> None:
    """Print the answers; nothing is written but to OUT=. Every prompt is looked at before weights are loaded."""
    if not run.ask.file:
        raise ConfigError(
            "no prompts given; add FILE=prompts.txt, FILE=prompts.jsonl, or FILE=- to type them"
        )
    _require_new(run.ask.out)
    inputs = open_inputs(run)
    data = recorded(DataConfig, inputs.data.manifest.config["data"])
    asked = read_prompts(run.ask.file, data)
    context = context_tokens(json.loads((inputs.weights.folder / "config.json").read_text(encoding="utf-8")))
    room = None if context is None else context - run.eval.max_new_tokens
    ids = prompt_ids(asked, read_renderer(inputs.weights.folder, inputs.model()), room)
    say(f"adapter {inputs.adapter.folder}; {around(asked, data)}")
    loaded, answering = inputs.load(run.hardware), Answering(run.eval)  # keeping no answer: they are private
    with loaded.model.disable_adapter():
        of_base = answering.answer(loaded, ids, BASE)
    of_adapter = answering.answer(loaded, ids, ADAPTER)
    _tell(
        [
            Answered(item, {BASE: base, ADAPTER: adapter})
            for item, base, adapter in zip(asked, of_base, of_adapter, strict=True)
        ],
        run,
    )


def _tell(found: Sequence[Answered], run: RunConfig) -> None:
    place = f"and in {run.ask.out}" if run.ask.out else "alone"
    complain(f"private text follows, on standard output {place}")
    show(found, run.ask.characters, Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    for line in summary(found, run.eval.max_new_tokens):
        say(line)
    if run.ask.out:
        rows = (json.dumps(item.as_json(), ensure_ascii=False) + "\n" for item in found)
        replace_text(Path(run.ask.out), "".join(rows))
        say(f"answers: {run.ask.out}")


def _require_new(out: str | None) -> None:
    if out and (Path(out).exists() or not Path(out).absolute().parent.is_dir()):
        raise ConfigError(
            f"ask.out={out} must be a new file in a folder that is there; name another with OUT="
        )


if __name__ == "__main__":
    sys.exit(stage("ask", ask, sys.argv[1:]))
