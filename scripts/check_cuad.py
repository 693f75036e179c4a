"""How much of CUAD's marked passages and of its PDFs' text the readers keep.

.venv/bin/python -m scripts.check_cuad ../shared/data      # the folder that holds cuad/
"""

import csv
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from data_prep.passages import passages
from data_prep.readers import Broken, texts
from data_prep.rows import Document
from data_prep.sources import open_source
from finetune.config import load
from finetune.config.data import LimitsConfig


def trigrams(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return Counter(zip(words, words[1:], words[2:], strict=False))


def pdf_recalls(cuad: Path) -> list[float]:
    """Of each sample PDF with a reference text, the share of the reference's word trigrams that was read."""
    with (cuad / "pdf_sample" / "manifest.csv").open() as stream:
        pairs = [row for row in csv.DictReader(stream) if row["txt_present"] == "yes"]
    found = texts([cuad / "pdf_sample" / row["file"] for row in pairs], LimitsConfig(), workers=2)
    recalls = []
    for row, item in zip(pairs, found, strict=True):
        wanted = trigrams((cuad / "full_contract_txt" / row["txt"]).read_text())
        read = Counter() if isinstance(item, Broken) else trigrams(item.text)
        recalls.append((wanted & read).total() / wanted.total())
    return recalls


def span_counts(data_root: Path) -> Counter[str]:
    """Contracts with a text, and what became of their marked passages."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(DATA_ROOT=str(data_root.resolve()), ARTIFACTS_ROOT=scratch)
        run = load(["experiment=contracts_llama8b", "data=cuad"])
        source = open_source(run.data, run.paths, 1)
        counts: Counter[str] = Counter()
        for found in source.read():
            if isinstance(found, Document):
                counts.update(passages(found, run.data, source.questions).counts, contracts=1)
    return counts


def main() -> None:
    data_root = Path(sys.argv[1])
    print("marked passages:", dict(span_counts(data_root)))
    recalls = pdf_recalls(data_root / "cuad")
    print(
        f"{len(recalls)} PDFs: trigram recall mean {sum(recalls) / len(recalls):.4f}, lowest {min(recalls):.4f}"
    )


if __name__ == "__main__":
    main()
