"""Simulate every record of conf/model as a whole: python -m scripts.check_records [name …], about 3 minutes on 2 cores.

For each: the parameters that the simulated weights stand for, beside those of the model's class, and the step's peak at
one row of 1,024 tokens. Exit 1 where a record does not simulate, or its parameters differ.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.architecture import architecture_of, parameter_count
from finetune.config import load
from finetune.config.load import CONF
from finetune.console import say
from finetune.model import prepare_libraries
from finetune.plan.settings import Settings
from finetune.plan.simulate import loading_bytes, simulate, simulate_evaluation

GIB = 2**30
BUFFERS = 1e-4
"""Share of rotary tables, which are no parameters, and of biases, which the simulated 4-bit layers hold in fp32."""
IN_BF16 = ("experts (bf16)", "embeddings and head", "other weights")


def weights(static: Mapping[str, int]) -> int:
    """Parameters that the bytes of a simulated base stand for: half a byte a quantised one, two the others."""
    return 2 * static["quantised weights"] + sum(static[key] for key in IN_BF16) // 2


def line(name: str) -> tuple[str, bool]:
    """One record in words, and whether its parameters are right."""
    started = time.monotonic()
    facts: dict[str, Any] = architecture_of(
        load(["experiment=licences_smollm135m", f"model={name}"]).model, None
    )
    settings = Settings(facts, rows=1, tokens=1024)
    found, loading = simulate(settings), loading_bytes(settings)
    evaluation = simulate_evaluation(settings, 4, 1024, 64)
    ours, theirs = weights(found.static), parameter_count(facts)
    text = (
        f"{name:20} {ours:>16,} {theirs:>16,} {found.peak.total / GIB:8.2f} {loading / GIB:8.2f} "
        f"{evaluation / GIB:8.2f} {time.monotonic() - started:6.1f} s"
    )
    return text, abs(ours - theirs) < BUFFERS * theirs


def main(argv: Sequence[str]) -> int:
    """Print all of them; see the module's text."""
    prepare_libraries()
    say(f"{'record':20} {'simulated':>16} {'parameters':>16} {'step':>8} {'loading':>8} {'answers':>8} GiB")
    right = []
    for name in argv or sorted(path.stem for path in CONF.glob("model/*.yaml")):
        text, same = line(name)
        say(text + ("" if same else "  differs"))
        right.append(same)
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
