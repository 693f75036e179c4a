"""Which files of a merge are finished: a record each, believed only where the file has the digest that it says."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic
from finetune.artifacts.hashing import HashCache, canonical, sha256_file, sha256_text
from finetune.merge_plan import Plan, Shard
from finetune.merge_shard import Made


class Records:
    """A folder of records: what was written with the same plan and by the same libraries need not be written again."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any], cache: HashCache) -> None:
        self.folder, self.made_from, self.cache = folder, dict(made_from), cache
        atomic.make_folder(folder)

    def finished(self, shard: Shard, path: Path) -> Made | None:
        """What an earlier attempt made of a shard, once its whole file is read again; None where it is to be made."""
        try:
            found = json.loads(self._path(shard).read_text())
            made = Made(**found["made"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if found.get("of") != self._identity(shard) or not path.is_file():
            return None
        if path.stat().st_size != made.size or sha256_file(path) != made.sha256:
            return None
        return made

    def keep(self, shard: Shard, path: Path, made: Made) -> None:
        """Record a file that has just been written. Its digest is known from then on and no file is read for it."""
        text = {"schema": 1, "of": self._identity(shard), "made": asdict(made)}
        atomic.replace_text(self._path(shard), json.dumps(text, indent=2) + "\n")
        self.remember(path, made)

    def remember(self, path: Path, made: Made) -> None:
        """Tell the manifest's cache a digest."""
        self.cache.remember(path, made.sha256)
        self.cache.save()

    def _identity(self, shard: Shard) -> str:
        header = sha256_text(shard.header[8:].decode())
        return sha256_text(canonical({"header": header, "from": self.made_from}))

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.json"


def unfinished_bytes(plan: Plan, folder: Path, done: Mapping[str, Made]) -> int:
    """Bytes that are still to be written, less those of unfinished files that make room for them."""
    todo = [shard for shard in plan.shards if shard.name not in done]
    there = [folder / shard.name for shard in todo]
    return sum(shard.size for shard in todo) - sum(path.stat().st_size for path in there if path.is_file())
