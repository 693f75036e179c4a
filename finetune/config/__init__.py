"""One typed RunConfig behind one door: `load(argv)`."""

from finetune.config.load import load, recorded, show
from finetune.config.schema import RunConfig

__all__ = ["RunConfig", "load", "recorded", "show"]
