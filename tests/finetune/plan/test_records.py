"""Every record of conf/model, three layers deep: its step, its loading and its answers, and the weights they hold."""

from collections.abc import Mapping
from typing import Any

import pytest

from finetune.architecture import architecture_of, parameter_count
from finetune.config import load
from finetune.config.load import CONF
from finetune.model import prepare_libraries
from finetune.plan.network import shallow
from finetune.plan.settings import Settings
from finetune.plan.simulate import loading_bytes, simulate, simulate_evaluation
from scripts.check_records import weights

LAYERS = 3
"""DeepSeek's first layer is unlike its others."""


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("model/*.yaml")))
def test_a_record_is_planned_with_every_parameter_it_has(name: str) -> None:
    prepare_libraries()
    facts: Mapping[str, Any] = architecture_of(
        load(["experiment=licences_smollm135m", f"model={name}"]).model, None
    )
    settings = Settings(shallow(facts, LAYERS), rows=1, tokens=64)
    found = simulate(settings)
    # buffers such as rotary tables are held beside the weights
    assert weights(found.static) == pytest.approx(parameter_count(settings.architecture), rel=1e-4)
    held = sum(found.static.values())
    assert found.peak.total > held
    assert loading_bytes(settings) >= held - found.static["LoRA weights"] - found.static["optimizer"]
    assert simulate_evaluation(settings, 2, 64, 8) > held - found.static["optimizer"]
