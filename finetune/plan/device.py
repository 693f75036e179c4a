"""From what PyTorch allocates to what the device must have free: a stated model, nothing in it fitted to peaks."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from finetune.config.plan import Device, HardwareConfig
from finetune.config.schema import Checkpointing
from finetune.plan.settings import Settings

MIB, GIB = 2**20, 2**30

CONTEXT = GIB // 2
"""The CUDA context with the kernels that training loads, torch 2 and CUDA from 11.7 on.

Out-of-memory messages of torch give it as memory in use - allocated - reserved: on A100 80 GB 0.51 (78.93 - 76.28 -
2.14), 0.51 (55.80 - 49.44 - 5.85), 0.50 (66.91 - 39.50 - 26.91), 0.49 (77.04 - 75.40 - 1.15), 0.49 GiB
(78.31 - 77.81 - 0.01), on an RTX 4090 0.51 (huggingface/lora-fast#1); without kernels it is 0.3 (pytorch#107667).
"""
NCCL_PAIR, NCCL_MORE = 544 * MIB, 688 * MIB
"""Buffers of one NCCL communicator of two, and of more, on A100 with NVLink (NVIDIA/nccl#964)."""
WORKSPACES = 2
"""cuBLAS keeps one for each thread that multiplies: the forward pass's and autograd's. torch counts them."""
FRAGMENTATION = 0.015
"""Share of the allocated memory that the caching allocator can neither use nor give back when memory runs out.

Reserved but unallocated in out-of-memory messages of training on 80 GB: 0.0 (77.81 allocated), 0.0 (78.58),
0.7 (77.24), 1.5 (75.40), 1.7 (76.13), 2.8 % (76.28 GiB): median 1.1, rounded up. Far from the limit far more is held
(1.1 to 1.6 times the peak), but given back before an allocation fails. It takes a quarter and more where logits of all
positions ask for gigabytes in one piece and rows differ in length; the heads of `train` do not.
"""
CPU_PROCESS = 0.85
"""GiB of a process that trains, tensors aside: 0.52 once all is imported (torch 2.13, transformers 5.23), 0.81 and 0.89
in a step, where glibc was told to give back every block of 1 MiB and more (mallopt M_MMAP_THRESHOLD)."""
CPU_KEPT, CPU_KEPT_RECOMPUTING = 1.0, 1.7
"""Share of the tensors' peak that glibc holds beside it: freed blocks below its threshold of up to 32 MiB (mallopt(3))
stay in its arenas, and the next ones do not fit into them. What a run keeps grows with the shapes that it meets: 0.5 in
its first steps (four steps whose tensors take 0.2 to 4.6 GiB: 0.50, 0.50, 0.48, 0.45), and 0.67, 0.75, 0.85, 1.00 over
four whole runs of 65 to 175 steps whose tensors take 0.8, 1.8, 2.0, 1.0 GiB, measured as the largest resident size less
the tensors less CPU_PROCESS. Planned is the most, since a run must fit to its end. Recomputation keeps more: 1.67 at
0.5 GiB, the one step measured. Giving each block back at once costs page faults, at a cost not yet measured."""
UNCERTAIN = 0.05


class Verdict(Enum):
    """Whether the step fits: surely, within 5 % of the limit on either side, or surely not."""

    fits = "fits"
    uncertain = "uncertain"
    does_not_fit = "does not fit"


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device at the peak of a step, and the bytes that it has."""

    tensors: int
    """Of the simulated step."""
    workspace: int
    """Of cuBLAS."""
    context: int
    """The CUDA context and NCCL's buffers; on a CPU the process with its libraries."""
    fragmentation: int
    paged: int
    """Paged optimizer states: on the device, but outside of torch's allocator."""
    limit: int

    @property
    def allocated(self) -> int:
        """What torch.cuda.max_memory_allocated would report."""
        return self.tensors + self.workspace

    @property
    def total(self) -> int:
        """Everything that the device must have room for."""
        return self.allocated + self.context + self.fragmentation + self.paged

    @property
    def verdict(self) -> Verdict:
        """The total against the limit."""
        share = self.total / self.limit
        if share < 1 - UNCERTAIN:
            return Verdict.fits
        return Verdict.uncertain if share <= 1 + UNCERTAIN else Verdict.does_not_fit

    def parts(self) -> dict[str, int]:
        """Bytes by part, which add up to `total`, and the limit; `allocated` are the step's tensors alone."""
        kept = ("workspace", "context", "fragmentation", "paged", "total", "limit")
        return {"allocated": self.tensors, **{key: getattr(self, key) for key in kept}}


def device_memory(tensors: int, paged: int, settings: Settings, hardware: HardwareConfig) -> DeviceMemory:
    """What a step whose tensors take `tensors` bytes at their peak needs on one device of this kind."""
    limit = memory_limit(hardware)
    if hardware.device is Device.cpu:
        kept = CPU_KEPT_RECOMPUTING if settings.checkpointing is Checkpointing.full else CPU_KEPT
        return DeviceMemory(tensors, 0, int(CPU_PROCESS * GIB), int(kept * tensors), 0, limit)
    workspace = WORKSPACES * int(hardware.workspace_mib * MIB)
    nccl = 0 if settings.gpus == 1 else NCCL_PAIR if settings.gpus == 2 else NCCL_MORE
    fragmentation = int(FRAGMENTATION * (tensors + workspace))
    return DeviceMemory(tensors, workspace, CONTEXT + nccl, fragmentation, paged, limit)


def memory_limit(
    hardware: HardwareConfig, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes of one device; of a CPU without a stated size, this machine's memory or its container's smaller limit."""
    if hardware.memory_gib is not None:
        return int(hardware.memory_gib * GIB)
    lines = (proc / "meminfo").read_text().splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    return min([machine, *_group_limits(proc, groups)])


def _group_limits(proc: Path, groups: Path) -> list[int]:
    """The limits of this process' control group and of those above it, version 1 and 2."""
    listed = proc / "self/cgroup"
    found = []
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        top = groups / controllers
        folder = top / path.strip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top) and (place / name).is_file():
                found.append((place / name).read_text().strip())
    return [int(text) for text in found if text.isdigit()]
