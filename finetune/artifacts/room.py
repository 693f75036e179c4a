"""Whether a disk holds what is going to be written, asked before the first byte."""

import shutil
from pathlib import Path

from finetune.console import gigabytes
from finetune.errors import MachineError


def require_room(folder: Path, needed: int, what: str, lever: str = "") -> None:
    """Raise MachineError where `needed` bytes of `what` do not fit on the disk of `folder`.

    `lever`: a setting that makes it less, as an advice.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        ways = ", ".join(["free some space", *([lever] if lever else [])])
        raise MachineError(
            f"{folder}: {what} needs {gigabytes(needed)} and {gigabytes(free)} are free; {ways}, or set ARTIFACTS_ROOT "
            "to another disk"
        )
