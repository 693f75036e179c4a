"""The machine that a benchmark ran on, in one line."""

import os
from pathlib import Path


def describe() -> str:
    """Processor, cores, bf16 matrix units and memory, from /proc where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {' '.join(units) or 'no bf16 units'}, no GPU used"
