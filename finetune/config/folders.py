"""Where settings stand: the repository's conf/ and a private folder beside it."""

import os
from pathlib import Path

from finetune.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"


def conf_folders() -> list[Path]:
    """conf/, and the private folder that CONF_DIR names. Raises ConfigError where that is none."""
    private = os.environ.get("CONF_DIR")
    if not private:
        return [CONF]
    root = Path(private).expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"CONF_DIR={private} is not a folder; make it, or unset CONF_DIR")
    return [CONF, root]
