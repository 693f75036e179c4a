"""What every data set offers: hashed files, and documents that are read when asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from data_prep.rows import Document, Drop
from finetune.artifacts.hashing import content_of


@dataclass(frozen=True)
class Source:
    """A data set: `read()` yields every document of its files, or the drop it became, in a fixed order."""

    name: str
    files: Mapping[str, str]
    """Relative path and sha256 of every file read."""
    read: Callable[[], Iterator[Document | Drop]]

    def record(self) -> dict[str, str]:
        """How a manifest names it; another byte in any file gives another content."""
        content = content_of({"path": path, "sha256": digest} for path, digest in self.files.items())
        return {"stage": "source", "name": self.name, "run": "", "content": content}
