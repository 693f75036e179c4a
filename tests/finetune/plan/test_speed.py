"""Step times of hand-made work on hardware of round rates, and published runs predicted from another source's."""

import json
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing
from finetune.model import prepare_libraries
from finetune.plan.settings import Settings
from finetune.plan.speed import DEQUANTISE_SHARE, LAUNCH_S, SHARE, Speed, step_speed

POINTS = Path(__file__).resolve().parents[4] / "shared/data/memory_points.json"
GPU = HardwareConfig("a100_like", Device.cuda, 80, bf16_tflops=100, bandwidth_gb_s=1000, link_gb_s=10)
STEP = Settings({"num_hidden_layers": 8, "hidden_size": 1000}, rows=2, tokens=500)


def simulation(trained: int = 0, **work: Any) -> Any:
    """A simulated micro-step of this work and nothing else."""
    prepare_libraries()
    from finetune.plan.memory import Work
    from finetune.plan.simulate import Simulation

    static = Counter({"quantised weights": 10**10})
    return Simulation({}, static, 0, Work(**work), [], trained)


def speed(settings: Settings = STEP, accumulation: int = 1, trained: int = 0, **work: Any) -> Speed:
    found = step_speed(simulation(trained, **work), settings, GPU, accumulation)
    assert found is not None
    return found


def test_products_run_at_a_share_of_the_peak_arithmetic() -> None:
    found = speed(flops=Counter({"activations": 2e13, "loss head": 5e12, "working set": 7.5e13}))
    assert found.step_s == pytest.approx(1 / SHARE)
    assert found.tokens_per_s == pytest.approx(1000 * SHARE)
    assert found.utilisation == pytest.approx(SHARE)
    assert found.model_utilisation == pytest.approx(SHARE / 2)
    assert found.bound == "compute"


def test_what_kernels_read_and_write_runs_at_the_same_share_of_the_bandwidth() -> None:
    found = speed(bytes=Counter({"products": 6e11, "rest": 4e11}))
    assert (found.step_s, found.bound) == (pytest.approx(1 / SHARE), "memory")


def test_dequantising_is_slower() -> None:
    assert speed(bytes=Counter({"dequantise": 1e12})).step_s == pytest.approx(1 / DEQUANTISE_SHARE)


def test_arithmetic_and_traffic_add_up_and_launches_hide_behind_them() -> None:
    both = {"flops": Counter({"activations": 1e14}), "bytes": Counter({"rest": 1e12})}
    assert speed(**both, operators=1000).step_s == pytest.approx(2 / SHARE)
    launched = speed(**both, operators=1_000_000)
    assert (launched.step_s, launched.bound) == (pytest.approx(15), "launches")


def test_a_step_is_its_micro_steps_and_adam() -> None:
    work = {"flops": Counter({"activations": 1e14})}
    found = speed(accumulation=4, trained=10**9, **work)
    assert found.step_s == pytest.approx(4 / SHARE + 0.028 / SHARE)
    assert found.tokens_per_s == pytest.approx(4000 / found.step_s)
    assert found.run_hours(3600) == pytest.approx(found.step_s)


def test_several_gpus_work_on_rows_of_their_own_and_send_each_other_the_weights() -> None:
    """Each of 4 GPUs holds 10 GB and receives the other three shares twice: 60 GB at 10 GB/s."""
    found = speed(replace(STEP, gpus=4), flops=Counter({"activations": 1e14}))
    assert found.step_s == pytest.approx(1 / SHARE + 6)
    assert found.tokens_per_s == pytest.approx(4000 / found.step_s)


def test_an_unknown_link_is_counted_as_free_and_said_so() -> None:
    work = simulation(flops=Counter({"activations": 1e14}))
    found = step_speed(work, replace(STEP, gpus=4), replace(GPU, link_gb_s=None), 1)
    assert found is not None
    assert found.step_s == pytest.approx(1 / SHARE)
    assert "hardware.link_gb_s is not known" in found.note


def test_offloaded_activations_travel_while_the_computation_waits() -> None:
    """8 layers of 1000 tokens of width 1000 in bf16, there and back, are 32 MB: 1 ms of PCIe."""
    offloaded = replace(STEP, offload=True)
    assert speed(offloaded, operators=1).step_s == pytest.approx(0.001 + LAUNCH_S)
    assert speed(offloaded, operators=1).bound == "transfers"
    assert speed(offloaded, operators=100).step_s == pytest.approx(0.001 + 100 * LAUNCH_S)
    assert speed(replace(offloaded, checkpoint_every=2), operators=1).step_s == pytest.approx(
        0.0005 + LAUNCH_S
    )
    kept = replace(offloaded, checkpointing=Checkpointing.none)
    assert speed(kept, operators=1).step_s == pytest.approx(15e-6)


@pytest.mark.parametrize("rate", ["bf16_tflops", "bandwidth_gb_s"])
def test_without_a_rate_there_is_no_time(rate: str) -> None:
    assert step_speed(simulation(), STEP, replace(GPU, **{rate: None}), 1) is None


def test_runs_of_one_source_are_predicted_by_the_share_of_another() -> None:
    if not POINTS.is_file():
        pytest.skip(f"{POINTS} is not here")
    prepare_libraries()
    from scripts.calibrate_speed import fitted, simulated

    rows = {row["id"]: row for row in json.loads(POINTS.read_text())}
    known = simulated([rows[name] for name in ("qwen-021", "qwen-023", "qwen-024")])
    unseen = simulated([rows[name] for name in ("fms-003", "fms-043", "fms-103", "fms-188", "fms-226")])
    share = fitted(known)
    assert abs(share - SHARE) < 0.06
    assert statistics.median(abs(run.error(share)) for run in unseen) <= 0.15
