"""The most memory that this process held: torch's count on CUDA, the system's on a CPU."""

from pathlib import Path

import torch

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak(cuda: bool) -> None:
    """Let the peak count anew from here, where the system can do that."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")  # the largest resident size (man 5 proc)


def peak_bytes(cuda: bool) -> int | None:
    """Allocated by torch on the device, or resident of the process; None where the system does not tell.

    Asks no device to wait: both are kept by the host.
    """
    if cuda:
        return int(torch.cuda.max_memory_allocated())
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
