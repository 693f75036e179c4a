"""The secret that makes row ids opaque."""

import contextlib
import os
from pathlib import Path

from finetune.config.schema import PathsConfig
from finetune.errors import DataError

KEY_BYTES = 32


def private_key(paths: PathsConfig) -> bytes:
    """The HMAC key of this artifacts root, made once; ids made with it reveal nothing without it."""
    path = Path(paths.artifacts_root) / ".key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        partial = path.with_name(f".key.{os.getpid()}")
        partial.write_bytes(os.urandom(KEY_BYTES))
        partial.chmod(0o600)
        with contextlib.suppress(FileExistsError):  # another process made it in between: its key holds
            path.hardlink_to(partial)
        partial.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(
            f"{path} has {len(key)} bytes, not {KEY_BYTES}; restore it, or delete it and prepare anew"
        )
    return key
