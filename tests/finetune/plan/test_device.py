"""From allocated to device memory: every part, the edges of the verdict, published runs on the right side of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing
from finetune.plan.device import DeviceMemory, Verdict, device_memory, memory_limit
from finetune.plan.settings import Settings

POINTS = Path(__file__).resolve().parents[4] / "shared/data/memory_points.json"
GIB = 2**30
A100 = HardwareConfig("a100_80gb", Device.cuda, 79.15)
CPU = HardwareConfig("cpu", Device.cpu, 16)


def step(gpus: int = 1) -> Settings:
    return Settings({}, rows=1, tokens=1, gpus=gpus)


def needed(
    tensors_gib: float, hardware: HardwareConfig = A100, gpus: int = 1, paged: int = 0
) -> DeviceMemory:
    return device_memory(int(tensors_gib * GIB), paged, step(gpus), hardware)


def test_a_gpu_holds_the_context_two_workspaces_fragments_and_paged_states_beside_the_tensors() -> None:
    found = needed(10, paged=1000)
    assert found.allocated == 10 * GIB + 2 * 8_519_680
    assert found.parts() == {
        "allocated": 10 * GIB,
        "workspace": 2 * 8_519_680,
        "context": GIB // 2,
        "fragmentation": int(0.015 * found.allocated),
        "paged": 1000,
        "total": 10 * GIB + 17_039_360 + GIB // 2 + int(0.015 * found.allocated) + 1000,
        "limit": int(79.15 * GIB),
    }


def test_hopper_has_larger_workspaces_and_more_gpus_need_buffers_to_talk() -> None:
    hopper = HardwareConfig("h100_80gb", Device.cuda, 79.11, workspace_mib=32)
    assert needed(10, hopper).workspace == 2 * 33_554_432
    assert [(needed(10, gpus=gpus).context - GIB // 2) // 2**20 for gpus in (1, 2, 4)] == [0, 544, 688]


def test_a_cpu_holds_the_process_instead() -> None:
    found = device_memory(10 * GIB, 0, replace(step(), checkpointing=Checkpointing.none), CPU)
    assert (found.workspace, found.paged) == (0, 0)
    assert found.context == int(0.85 * GIB)
    assert found.total == 20 * GIB + int(0.85 * GIB)  # glibc keeps as much again as the tensors took


NONE, FULL = Checkpointing.none, Checkpointing.full


@pytest.mark.parametrize(
    ("tensors_gib", "held_gib", "checkpointing"),
    [
        (0.759, 2.12, NONE),  # CLINC150 banking, 150 steps
        (1.008, 2.87, NONE),  # ICD-10 chapters, 175 steps
        (1.835, 4.07, NONE),  # CUAD clauses, 65 steps
        (2.044, 4.63, NONE),  # the demo, 111 steps
        (0.514, 2.221, FULL),  # 8 x 256, rank 64
    ],
)
def test_what_a_process_held_on_a_cpu_is_predicted_and_not_too_low(
    tensors_gib: float, held_gib: float, checkpointing: Checkpointing
) -> None:
    """The largest resident size of whole runs, and of three real steps with recomputation."""
    settings = replace(step(), checkpointing=checkpointing)
    total = device_memory(int(tensors_gib * GIB), 0, settings, CPU).total
    assert -0.01 < total / GIB / held_gib - 1 < 0.12


@pytest.mark.parametrize(
    ("total_gib", "verdict"),
    [(94.9, Verdict.fits), (95, Verdict.uncertain), (105, Verdict.uncertain), (105.1, Verdict.does_not_fit)],
)
def test_within_five_percent_of_the_limit_nothing_is_promised(total_gib: float, verdict: Verdict) -> None:
    assert DeviceMemory(int(total_gib * GIB), 0, 0, 0, 0, 100 * GIB).verdict is verdict


@pytest.mark.parametrize(
    ("groups", "limit_gib"),
    [
        ({}, 32),
        ({"0::/a/b": {"a/memory.max": 8 * GIB, "a/b/memory.max": "max"}}, 8),
        ({"4:memory:/job": {"memory/job/memory.limit_in_bytes": 4 * GIB}}, 4),
        ({"4:memory:/elsewhere": {"memory/memory.limit_in_bytes": 6 * GIB}}, 6),
        ({"4:memory:/": {"memory/memory.limit_in_bytes": 2**63 - 4096}}, 32),
        ({"3:cpu:/": {"cpu/memory.limit_in_bytes": 1}}, 32),
    ],
)
def test_a_cpu_without_a_stated_size_has_what_the_machine_or_its_container_has(
    tmp_path: Path, groups: Mapping[str, Mapping[str, object]], limit_gib: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {32 * 2**20} kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("\n".join(groups))
    for files in groups.values():
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    hardware = HardwareConfig("cpu", Device.cpu)
    assert memory_limit(hardware, tmp_path / "proc", tmp_path / "groups") == limit_gib * GIB


def points() -> list[dict[str, Any]]:
    if not POINTS.is_file():
        pytest.skip(f"{POINTS} is not here")
    found: list[dict[str, Any]] = json.loads(POINTS.read_text())
    return [row for row in found if row["gpu"] == "A100-80GB"]


def verdict_at(peak_gib: float, row: Mapping[str, Any]) -> Verdict:
    """Of a peak that torch measured, workspaces included."""
    return needed(peak_gib - 17_039_360 / GIB, gpus=row["num_gpus"]).verdict


def test_no_published_run_that_ran_is_called_too_large() -> None:
    ran = [row for row in points() if row["peak_gib"]]
    assert len(ran) >= 80
    assert {verdict_at(row["peak_gib"], row) for row in ran} == {Verdict.fits}


def test_no_published_run_that_was_out_of_memory_is_called_fitting() -> None:
    """Their peaks by the straight line through the same run at 8 and 16 rows, which is how activations grow."""
    rows = points()
    failed = [row for row in rows if row["oom"]]
    assert len(failed) >= 8
    for row in failed:
        same = ("model", "quant", "loss_kernel", "num_gpus")
        peaks = {
            other["micro_batch"]: other["peak_gib"]
            for other in rows
            if "liger.csv" in other["source_detail"] and all(other[key] == row[key] for key in same)
        }
        assert verdict_at(3 * peaks[16] - 2 * peaks[8], row) is not Verdict.fits, row["id"]
