"""A house with a tiny export, and where vLLM is."""

from pathlib import Path

import pytest
import tiny
from house import House

from eval.evaluate import run as evaluate
from finetune.artifacts import provenance
from finetune.export import run as export
from finetune.stage import stage

VLLM = provenance.ROOT / ".venv-serve" / "bin" / "python"
needs_vllm = pytest.mark.skipif(not VLLM.is_file(), reason="no vLLM in .venv-serve; run `make setup-serve`")
SMALL = ["serve.min_prompts=12", "serve.concurrency=4", "train.max_steps=30", "export.min_positions=20"]
EAGER = "serve.arguments=[--enforce-eager]"
"""Without vLLM's compiler, which takes a minute for a model of any size."""


def build(folder: Path) -> House:
    """Trained until its answers are sure, evaluated and exported."""
    tiny.build_model(folder / "model", heads=2)
    (folder / "house").mkdir()
    house = House.built(folder / "house", folder / "model")
    assert house.train(*SMALL) == 0
    with house.at_home():
        for name, body in (("eval", evaluate), ("export", export)):
            assert stage(name, body, house.argv(*SMALL)) == 0
    return house


def current(house: House, kind: str) -> Path:
    """The folder that `current` names."""
    parent = house.folder / "artifacts" / kind / "tiny"
    return parent / (parent / "current").read_text().strip()
